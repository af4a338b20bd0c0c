"""What a guard that fails is asked again, and what never becomes a reward."""

import math

import pytest

from langchain_saffron.errors import GuardFailedError, SettingsError
from langchain_saffron.models.guard_retries import Retries


class Flaky:
    """Gives what it is told to, call by call; then each text's length."""

    def __init__(self, *given):
        self.given = list(given)
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        if not self.given:
            return [float(len(text)) for text in texts]
        value = self.given.pop(0)
        if isinstance(value, Exception):
            raise value
        return value


TEXTS = ["a", "bb", "ccc"]


@pytest.mark.parametrize(
    ("bad", "counted"),
    [
        (TimeoutError("too slow"), {"errors": 1, "retried": 3}),
        ([1.0], {"wrong_count": 1, "retried": 3}),
        ([1.0] * 4, {"wrong_count": 1, "retried": 3}),
        ([math.nan, math.inf, None], {"not_a_number": 3, "retried": 3}),
        (["high", 2.0, 3.0], {"not_a_number": 1, "retried": 1}),
    ],
)
def test_what_is_no_reward_is_asked_for_again(bad, counted):
    guard, retries = Flaky(bad), Retries(wait=0)
    assert retries.rewards(guard, TEXTS, "g") == [1.0, 2.0, 3.0]
    assert {what: count for what, count in retries.counts.items() if count} == counted
    assert guard.asked[1] == TEXTS[: counted["retried"]]


def test_after_the_last_attempt_it_is_an_error_that_says_why():
    guard = Flaky(*[[1.0, math.nan, 3.0]], *[[math.nan]] * 2)
    with pytest.raises(GuardFailedError, match=r"g gave no reward for 1 of 3 texts in 3 attempts: it returned nan"):
        Retries(3, wait=0).rewards(guard, TEXTS, "g")
    assert guard.asked == [TEXTS, ["bb"], ["bb"]]


def test_what_fails_is_skipped_and_counted_where_that_is_wanted():
    retries = Retries(2, wait=0, skip=True)
    rewards = retries.rewards(Flaky([1.0, None, 3.0], TimeoutError()), TEXTS, "g")
    assert rewards[0::2] == [1.0, 3.0]
    assert math.isnan(rewards[1])
    assert retries.counts == {"not_a_number": 1, "retried": 1, "errors": 1, "skipped": 1}


def test_what_no_attempt_mends_is_not_asked_again():
    guard = Flaky(SettingsError("guard: refused"))
    with pytest.raises(SettingsError, match="refused"):
        Retries(wait=0).rewards(guard, TEXTS, "g")
    assert len(guard.asked) == 1


def test_waits_grow(monkeypatch):
    waited = []
    monkeypatch.setattr("langchain_saffron.models.guard_retries.time.sleep", waited.append)
    with pytest.raises(GuardFailedError):
        Retries(4, wait=2).rewards(Flaky(*[TimeoutError()] * 4), TEXTS, "g")
    assert waited == [2, 4, 8]
