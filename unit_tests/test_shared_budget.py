"""One budget over several calls: whatever their order and their threads, they never take more than there is."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_saffron import ComputeBudget, SearchStats
from langchain_saffron.errors import BudgetError, SettingsError
from langchain_saffron.shared_budget import Amount, SharedBudget, smaller

TFLOPS = st.floats(min_value=1e-9, max_value=1e6)
REWARD_CALLS = st.integers(min_value=1, max_value=10_000)
CALLS = st.none() | st.integers(min_value=1, max_value=12)
PARTS = st.floats(min_value=0, max_value=1)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def spent(tflops=0.0, reward_calls=0):
    return SearchStats(tflops=tflops, reward_calls=reward_calls)


def use(share, part):
    """Stats of a call that spends a part of its share."""
    budget = share.budget
    return spent((budget.max_tflops or 0.0) * part, int((budget.max_reward_calls or 0) * part))


# --- division ---


def test_equal_parts():
    shared = SharedBudget(ComputeBudget(max_tflops=2.0, max_reward_calls=40), calls=4)
    for _ in range(4):
        with shared.take() as share:
            assert share.budget == ComputeBudget(max_tflops=0.5, max_reward_calls=10)
            share.settle(spent(0.5, 10))
    assert shared.left == Amount(0.0, None, 0)
    assert (shared.spent.tflops, shared.spent.reward_calls) == (2.0, 40)


def test_what_a_call_leaves_over_is_the_later_ones():
    shared = SharedBudget(ComputeBudget(max_tflops=3.0, max_reward_calls=30), calls=3)
    with shared.take() as share:
        share.settle(spent(0.5, 4))
    with shared.take() as share:
        assert share.budget == ComputeBudget(max_tflops=1.25, max_reward_calls=13)
        share.settle(spent(0.25, 1))
    assert shared.take().budget == ComputeBudget(max_tflops=2.25, max_reward_calls=25)


def test_without_a_number_of_calls_each_may_spend_everything_that_is_left():
    shared = SharedBudget(ComputeBudget(max_reward_calls=10))
    with shared.take() as share:
        assert share.budget.max_reward_calls == 10
        share.settle(spent(reward_calls=3))
    with shared.take() as share:
        assert share.budget.max_reward_calls == 7
        with pytest.raises(BudgetError, match=r"no reward calls left .*1 of them not settled yet; divide it"):
            shared.take()


def test_calls_past_the_number_get_what_is_left():
    shared = SharedBudget(ComputeBudget(max_reward_calls=10), calls=1)
    shared.take().settle(spent(reward_calls=4))
    share = shared.take()
    assert share.budget.max_reward_calls == 6
    share.settle(spent(reward_calls=6))
    with pytest.raises(BudgetError, match=r"max_reward_calls=10\) has no reward calls left after 2 calls"):
        shared.take()


def test_fewer_reward_calls_than_calls():
    shared = SharedBudget(ComputeBudget(max_reward_calls=3), calls=10)
    assert [shared.take().budget.max_reward_calls for _ in range(3)] == [1, 1, 1]
    with pytest.raises(BudgetError):
        shared.take()


def test_what_is_not_limited_stays_so():
    share = SharedBudget(ComputeBudget(max_tflops=1.0, on_exhausted="refuse"), calls=2).take()
    assert share.budget == ComputeBudget(max_tflops=0.5, on_exhausted="refuse")


def test_shares_at_the_same_time_are_reserved():
    shared = SharedBudget(ComputeBudget(max_tflops=1.0), calls=2)
    first, second = shared.take(), shared.take()
    assert (first.budget.max_tflops, second.budget.max_tflops) == (0.5, 0.5)
    with pytest.raises(BudgetError, match="no TFLOP left"):
        shared.take()
    second.settle(spent(tflops=0.125))
    assert shared.take().budget.max_tflops == 0.375


# --- settling ---


def test_a_share_that_is_left_without_settling_is_wholly_spent():
    shared = SharedBudget(ComputeBudget(max_tflops=1.0, max_reward_calls=9), calls=2)
    share = shared.take()
    with pytest.raises(KeyError), share:
        raise KeyError("the call failed")
    assert (shared.spent.tflops, shared.spent.reward_calls) == (0.5, 4)
    # too late
    share.settle(spent())
    assert (shared.spent.tflops, shared.spent.reward_calls) == (0.5, 4)


def test_a_share_that_is_forgotten_is_never_given_back():
    shared = SharedBudget(ComputeBudget(max_tflops=1.0), calls=2)
    shared.take()
    assert shared.left.tflops == 0.5
    assert shared.spent.tflops == 0.0


def test_only_the_first_settling_counts():
    shared = SharedBudget(ComputeBudget(max_reward_calls=8))
    share = shared.take()
    share.settle(spent(reward_calls=3))
    share.settle()
    assert shared.spent.reward_calls == 3


def test_metadata_settle_as_stats_do():
    shared = SharedBudget(ComputeBudget(max_tflops=1.0, max_reward_calls=8))
    shared.take().settle(spent(0.25, 5).as_dict())
    assert (shared.spent.tflops, shared.spent.reward_calls) == (0.25, 5)


def test_more_than_the_share_is_booked_as_well():
    shared = SharedBudget(ComputeBudget(max_tflops=1.0, max_reward_calls=4))
    shared.take().settle(spent(3.0, 1))
    assert shared.spent.tflops == 3.0
    assert shared.left.tflops == 0.0
    with pytest.raises(BudgetError, match="no TFLOP left"):
        shared.take()


# --- seconds ---


def test_seconds_are_a_deadline_from_the_first_take():
    clock = Clock()
    shared = SharedBudget(ComputeBudget(max_seconds=8.0), calls=4, clock=clock)
    clock.now += 1000
    assert shared.spent.seconds == 0.0
    share = shared.take()
    assert share.budget.max_seconds == 2.0
    clock.now += 2
    share.settle(spent())
    # a tool runs
    clock.now += 3
    assert shared.take().budget.max_seconds == 1.0
    assert shared.left.seconds == 3.0
    clock.now += 3
    with pytest.raises(BudgetError, match="no seconds left"):
        shared.take()
    assert shared.spent.seconds == 8.0


def test_seconds_of_calls_at_the_same_time_count_once():
    clock = Clock()
    shared = SharedBudget(ComputeBudget(max_seconds=6.0), calls=3, clock=clock)
    shares = [shared.take() for _ in range(3)]
    assert [share.budget.max_seconds for share in shares] == [2.0, 3.0, 6.0]
    clock.now += 2
    for share in shares:
        share.settle(SearchStats(seconds=2.0))
    assert shared.left.seconds == 4.0


# --- two budgets ---


def test_the_smaller_limits_and_the_stricter_end_win():
    first = ComputeBudget(max_tflops=1.0, max_seconds=5.0, on_exhausted="stop")
    second = ComputeBudget(max_tflops=2.0, max_seconds=3.0, max_reward_calls=7)
    both = ComputeBudget(max_tflops=1.0, max_seconds=3.0, max_reward_calls=7, on_exhausted="stop")
    assert smaller(first, second) == smaller(second, first) == both
    assert smaller(first, ComputeBudget()) == first
    assert smaller(first, ComputeBudget(on_exhausted="refuse")).on_exhausted == "refuse"


def test_a_calls_own_limit_is_all_that_is_reserved():
    shared = SharedBudget(ComputeBudget(max_tflops=1.0, max_reward_calls=100))
    share = shared.take(ComputeBudget(max_tflops=0.25, max_seconds=9.0, max_reward_calls=1000))
    assert share.budget == ComputeBudget(max_tflops=0.25, max_seconds=9.0, max_reward_calls=100)
    assert shared.left == Amount(0.75, None, 0)
    share.settle()
    assert (shared.spent.tflops, shared.spent.reward_calls) == (0.25, 100)


# --- use ---


@pytest.mark.parametrize(
    ("budget", "calls", "says"),
    [
        (ComputeBudget(), None, "set max_tflops, max_seconds or max_reward_calls"),
        (ComputeBudget(on_exhausted="refuse"), 3, "set max_tflops"),
        (ComputeBudget(max_tflops=1.0), 0, "calls: at least 1"),
    ],
)
def test_a_budget_that_cannot_work_is_refused(budget, calls, says):
    with pytest.raises(SettingsError, match=says):
        SharedBudget(budget, calls)


def test_a_copy_pays_from_the_same_budget():
    shared = SharedBudget(ComputeBudget(max_tflops=1.0))
    assert copy.deepcopy({"shared_budget": shared})["shared_budget"] is shared


# --- whatever the order ---


@given(
    tflops=TFLOPS,
    reward_calls=REWARD_CALLS,
    calls=CALLS,
    events=st.lists(st.tuples(st.booleans(), st.integers(min_value=0, max_value=30), PARTS), max_size=60),
)
def test_no_order_of_takes_and_settlings_exceeds_the_budget(tflops, reward_calls, calls, events):
    shared = SharedBudget(ComputeBudget(max_tflops=tflops, max_reward_calls=reward_calls), calls)
    out, booked = [], []
    for take, which, part in events:
        if take:
            try:
                out.append(shared.take())
            except BudgetError:
                assert 0 in (shared.left.reward_calls, shared.left.tflops)
        elif out:
            share = out.pop(which % len(out))
            stats = use(share, part)
            booked.append(stats)
            share.settle(stats)
        # exact sums: what has been spent, and what the running calls may yet spend
        worst = sum((Fraction(share.budget.max_tflops) for share in out), Fraction(0))
        assert worst + sum(Fraction(stats.tflops) for stats in booked) <= Fraction(tflops)
        calls_out = sum(share.budget.max_reward_calls for share in out)
        assert calls_out + sum(stats.reward_calls for stats in booked) <= reward_calls
    assert shared.spent.reward_calls == sum(stats.reward_calls for stats in booked)
    assert shared.spent.tflops == float(sum(Fraction(stats.tflops) for stats in booked))


@given(tflops=TFLOPS, reward_calls=st.integers(min_value=12, max_value=10_000), calls=st.integers(1, 12), part=PARTS)
def test_every_call_gets_at_least_an_equal_part(tflops, reward_calls, calls, part):
    shared = SharedBudget(ComputeBudget(max_tflops=tflops, max_reward_calls=reward_calls), calls)
    for _ in range(calls):
        share = shared.take()
        assert share.budget.max_tflops >= tflops / calls * (1 - 1e-12)
        assert share.budget.max_reward_calls >= reward_calls // calls
        share.settle(use(share, part))


@pytest.mark.slow
@given(tflops=TFLOPS, reward_calls=REWARD_CALLS, calls=CALLS, parts=st.lists(PARTS, min_size=8, max_size=8))
def test_threads_together_never_exceed_the_budget(tflops, reward_calls, calls, parts):
    shared = SharedBudget(ComputeBudget(max_tflops=tflops, max_reward_calls=reward_calls), calls)
    booked, barrier = [], threading.Barrier(len(parts))

    def call(part):
        barrier.wait()
        for _ in range(4):
            try:
                with shared.take() as share:
                    stats = use(share, part)
                    # half of them end without saying what they have spent
                    booked.append(use(share, 1.0) if part < 0.5 else stats)
                    if part >= 0.5:
                        share.settle(stats)
            except BudgetError:
                return

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(call, parts))
    assert booked
    assert sum(Fraction(stats.tflops) for stats in booked) <= Fraction(tflops)
    assert sum(stats.reward_calls for stats in booked) <= reward_calls
    assert shared.spent.reward_calls == sum(stats.reward_calls for stats in booked)
