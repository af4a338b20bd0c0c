"""The script of what compute that follows risk buys, on a few prompts; figures are another matter."""

import pytest

from integration_tests.scaling_figures import AUTO, FIXED, ONE, WORLDS, costs, quotients, ratio, run, table
from langchain_saffron.evaluation.run import rescore
from langchain_saffron.kitchen import WEIGHTS


@pytest.mark.slow
def test_both_kinds_of_traffic_are_answered_and_compared(tmp_path):
    methods = ("saffron:1", "saffron:16", "saffron-auto:16")
    attacks, benign = run(WORLDS["hard-kitchen"], WEIGHTS / "mrm", tmp_path, 2, methods, None)
    figures = [rescore([directory], answers=0).figures for directory in (attacks, benign)]
    lines = table(*figures).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in (ONE, FIXED, AUTO)]
    found = quotients([attacks], [benign])
    spent = costs([attacks])
    expected = sum(spent[AUTO].values()) / sum(spent[FIXED].values())
    assert found["attacks: auto ÷ width 16"][0].value == pytest.approx(expected)
    # of runs by two MRMs that cost the same, the mean is what each costs
    assert costs([attacks, attacks]) == spent


def test_a_ratio_weighs_the_kinds_of_traffic():
    parts = [(0.9, {"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 2.0}), (0.1, {"c": 10.0}, {"c": 20.0})]
    found = ratio(parts)
    assert found.value == pytest.approx((0.9 * 2 + 1) / (0.9 * 2 + 2))
    assert found.low < found.value < found.high
