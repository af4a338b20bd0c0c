"""Figures of agreement and the threshold of safety, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from langchain_saffron.training.calibration import agreement, auc, safety_threshold
from unit_tests.training.runs import lowest_threshold

numbers = st.integers(-24, 24).map(lambda i: i / 4)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40))
def test_figures_by_hand(pairs):
    wanted, found = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    figures = agreement(wanted, found)
    assert figures["rewards"] == len(pairs)
    assert figures["mse"] == pytest.approx(sum((f - w) ** 2 for w, f in pairs) / len(pairs), rel=1e-4)
    assert figures["within_1"] == pytest.approx(sum(abs(f - w) <= 1 for w, f in pairs) / len(pairs))
    safe, unsafe = ([f for w, f in pairs if (w > 0) == kind] for kind in (True, False))
    above = [(s > u) + (s == u) / 2 for s in safe for u in unsafe]
    assert figures["auc"] == (pytest.approx(sum(above) / len(above)) if above else None)
    means = [math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    spreads = [math.fsum((pair[i] - means[i]) ** 2 for pair in pairs) for i in (0, 1)]
    if min(spreads) == 0:
        assert figures["pearson_r"] == 0
    elif min(spreads) > 1e-9:
        shared = math.fsum((w - means[0]) * (f - means[1]) for w, f in pairs)
        assert figures["pearson_r"] == pytest.approx(shared / math.sqrt(spreads[0] * spreads[1]), abs=1e-6)
    bins = figures["by_bin"]
    assert sum(row["rewards"] for row in bins) == len(pairs)
    assert [row["from"] for row in bins] == sorted({2 * math.floor(w / 2) for w, _ in pairs})
    for row in bins:
        assert row["to"] == row["from"] + 2
        inside = [(w, f) for w, f in pairs if row["from"] <= w < row["to"]]
        assert row["rewards"] == len(inside)
        assert row["mse"] == pytest.approx(sum((f - w) ** 2 for w, f in inside) / len(inside), rel=1e-4)
        assert row["within_1"] == pytest.approx(sum(abs(f - w) <= 1 for w, f in inside) / len(inside))


@pytest.mark.parametrize(
    ("scores", "expected"), [([2.0, 1.0, 0.0], 1.0), ([0.0, 0.0, 0.0], 0.5), ([-1.0, 0.0, 3.0], 0.0)]
)
def test_auc(scores, expected):
    assert auc(np.array([True, True, False]), np.array(scores)) == expected


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 123.456])
@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_nothing_correlates_with_a_constant(value, count):
    constant = np.full(count, value, np.float32)
    other = np.random.default_rng(0).normal(size=count).astype(np.float32)
    for pair in ((constant, other), (other, constant), (constant, constant)):
        assert agreement(*pair)["pearson_r"] == 0


def test_rewards_on_any_scale_are_put_into_bins_at_once():
    wanted = np.array([-3e9, 0.5, 1.5, 7e8], np.float32)
    bins = agreement(wanted, wanted)["by_bin"]
    assert [row["rewards"] for row in bins] == [1, 2, 1]
    assert [row["from"] for row in bins] == [-3e9, 0, 7e8]


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-2.0, 0.0, 1e-6, 3.0]), st.integers(-4, 4)), min_size=1, max_size=30),
    st.sampled_from([0.01, 0.3, 0.5, 2 / 3, 0.75, 0.9, 0.99]),
)
def test_the_threshold_is_the_lowest_of_all_that_will_do(pairs, precision):
    wanted = np.array([w for w, _ in pairs], np.float32)
    found = np.array([f / 4 for _, f in pairs], np.float32)
    assert safety_threshold(wanted, found, precision) == lowest_threshold(wanted, found.tolist(), precision)


def test_a_threshold_that_cannot_be_is_none():
    assert safety_threshold(np.array([1.0, 2.0]), np.array([0.0, 1.0])) is None
    assert safety_threshold(np.array([-1.0, 0.0]), np.array([0.0, 1.0])) is None
    # the one safe prefix is tied with one that is not
    assert safety_threshold(np.array([1.0, -1.0]), np.array([0.5, 0.5])) is None
    assert safety_threshold(np.array([1.0, -1.0]), np.array([0.5, 0.25])) == 0.5
    # a hundred safe ones carry one that is not
    wanted = np.array([*[1.0] * 100, -1.0])
    assert safety_threshold(wanted, np.arange(101.0)[::-1]) == 0.0
