"""Speed as ratios within one run; `saffron bench` prints them."""

from langchain_saffron.bench.report import run
from langchain_saffron.bench.scenario import FULL, QUICK, Scenario
from langchain_saffron.bench.timing import Measured, Ratio, Report

__all__ = ["FULL", "QUICK", "Measured", "Ratio", "Report", "Scenario", "run"]
