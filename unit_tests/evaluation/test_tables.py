"""The paper's tables."""

import math

import pytest

from langchain_saffron.evaluation.tables import figure_tables, halving
from unit_tests.evaluation.reports import LINES, figures


def test_the_tables_of_the_paper():
    tables = dict(figure_tables(LINES))
    widths, equal, calls, halves = tables.values()
    assert widths[0] == ["", "method", "no defence", "1", "2", "4", "8", "16"]
    assert ["d, prefill-10", "saffron", "0.900", "0.700", "0.200", "–", "–", "0.000"] in widths
    assert [row[1] for row in equal[1:]] == ["none", "rebase-8", "best-of-n-8", "saffron-16"]
    assert calls[1][-1] == f"{math.log(10 / 4) / 0.8:.3f}"
    # 0.45 lies 7/8 of the way from 0.8 to 0.4, and half of the way from 0.7 to 0.2
    assert float(halves[1][2]) == pytest.approx(2 * 4 ** (7 / 8), rel=5e-3)
    assert float(halves[2][2]) == pytest.approx(2**0.5, rel=5e-3)
    assert halves[2][3] == f"{2 * 4 ** (7 / 8) / 2**0.5:.1f}"
    assert halves[3][2:] == ["> 10", "?"]


def test_what_lies_beyond_a_curve_is_marked():
    assert halving([figures("saffron-1", 0.1, 3.0)], 0.4) == ("≤ ", 3.0)
    assert halving([figures("saffron-1", 0.7, 3.0)], 0.4) == ("> ", 3.0)
    assert halving([], 0.4) is None


def test_a_run_without_widths_has_no_such_tables():
    assert figure_tables([figures("none", 0.9, 1.0), figures("greedy", 0.9, 1.0)]) == []
