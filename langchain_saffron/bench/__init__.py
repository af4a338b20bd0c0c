"""Speed as ratios within one run; `saffron bench` prints them."""

from langchain_saffron.bench.report import Ratio, Report, run
from langchain_saffron.bench.scenario import FULL, QUICK, Scenario

__all__ = ["FULL", "QUICK", "Ratio", "Report", "Scenario", "run"]
