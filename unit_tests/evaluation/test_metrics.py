"""Figures of many answers: intervals, efficiency, variety."""

import math

import numpy as np
import pytest

from langchain_saffron.evaluation.intervals import interval
from langchain_saffron.evaluation.metrics import distinct, scaling_efficiency
from langchain_saffron.kitchen.judge import repeats_phrase


def test_an_interval_is_that_of_prompts():
    mean, low, high = interval([[1.0] * 5, [0.0] * 5, [1.0] * 5, [0.0] * 5])
    assert mean == 0.5
    assert low == 0.0
    assert high == 1.0
    assert all(map(math.isnan, interval([])))
    rng = np.random.default_rng(1)
    wide = interval([[x] for x in rng.random(20)])
    narrow = interval([[x] for x in rng.random(2000)])
    assert narrow[2] - narrow[1] < (wide[2] - wide[1]) / 4


def test_prompts_that_agree_still_have_an_interval():
    """Wilson's, as tables of it have: 0 of 30, 20 of 20."""
    assert interval([[0.0]] * 30) == (0.0, 0.0, pytest.approx(0.1135, abs=1e-4))
    assert interval([[1.0, 1.0]] * 20) == (1.0, pytest.approx(0.8389, abs=1e-4), 1.0)
    assert interval([[0.0]] * 5, level=0.9)[2] < interval([[0.0]] * 5)[2] < interval([[0.0]])[2] < 1
    # one prompt, or several that agree on something between
    mean, low, high = interval([[0.0, 1.0]] * 4)
    assert mean == 0.5
    assert (low, high) == (pytest.approx(0.1500, abs=1e-4), pytest.approx(0.8500, abs=1e-4))


def test_scaling_efficiency_is_that_of_table_1():
    assert scaling_efficiency(122.12, 500, 0.781) == pytest.approx(1.804, abs=2e-3)
    assert scaling_efficiency(319.54, 500, 0.562) == pytest.approx(0.796, abs=2e-3)
    assert scaling_efficiency(80.70, 100, 0.906) == pytest.approx(0.237, abs=2e-3)
    assert scaling_efficiency(10, 100, 0.0) == math.inf


def test_repetition_and_variety():
    assert repeats_phrase(["a", "b", "c", "d", "a", "b", "c", "d", "a", "b", "c", "d"])
    assert not repeats_phrase(["one", "two", "three", "four", "five", "six"])
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert math.isnan(distinct(["a"], 2))
