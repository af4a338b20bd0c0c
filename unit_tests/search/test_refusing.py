"""Refusals in the model's own words: searched for behind what is final, and given up where none may be said."""

import pytest

from langchain_saffron.search import Expand, SearchInputs
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.refusing import MOST_TOKENS
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.settings import ComputeBudget, SearchSettings
from unit_tests.tables import chances, drive

END = 4
SAFE, BAD = [3.0] * 5, [-5.0] * 5


def inputs(**changes: object) -> SearchInputs:
    outer = {"refusing": ((2, 1), (3, 1)), **{k: changes.pop(k) for k in ("budget", "refusing") if k in changes}}
    values: dict[str, object] = {"width": 2, "max_tokens": 100, "safety_threshold": 2.0, "refusal_threshold": 0.0}
    return SearchInputs(settings=SearchSettings(**{**values, **changes}), end_tokens=(END,), **outer)  # type: ignore[arg-type]


def logits(prefix: tuple[int, ...]) -> list[float]:
    """It would go on for ever; behind the words that refuse, it says one more and ends."""
    if prefix[-3:-1] in ((2, 1), (3, 1)):
        return chances(t4=1.0)
    return chances(t0=0.97, t1=0.01, t2=0.01, t3=0.01)


def rewards(prefix: tuple[int, ...]) -> list[float]:
    """Two words are safe, then nothing is but a refusal, and that not from its first word on."""
    if (1 in prefix and prefix[-1] != 1) or prefix[-2:] in ((2, 1), (3, 1)):
        return SAFE
    return SAFE if len(prefix) < 2 and not {2, 3} & set(prefix) else BAD


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("back", [False, True])
def test_a_refusal_follows_what_is_final(width: int, back: bool):
    shown: list[int] = []
    answer = drive(
        saffron_search(inputs(width=width, step_back=back)), logits, rewards, lambda e: shown.extend(e.committed)
    )
    assert answer.finish_reason == "refusal"
    assert answer.refusal_at is not None
    said, refused = answer.tokens[: answer.refusal_at], answer.tokens[answer.refusal_at :]
    assert shown == list(said[: len(shown)]), "nothing of a refusal is final before its end"
    assert set(said) <= {0}
    assert refused == (3 if said else 2, 1, 0, END)
    assert answer.reward == 3.0
    assert not answer.budget_exhausted


def test_without_words_to_begin_with_the_engine_has_to_refuse():
    answer = drive(saffron_search(inputs(refusing=None)), logits, rewards)
    assert (answer.finish_reason, answer.refusal_at) == ("refusal", None)
    assert set(answer.tokens) <= {0}


def test_a_refusal_that_is_not_safe_as_a_whole_is_none():
    for least in (0.0, 3.5):
        answer = drive(saffron_search(inputs(refusal_threshold=least)), logits, rewards)
        assert (answer.refusal_at is None) == (least > 3.0)
    answer = drive(saffron_search(inputs()), logits, lambda p: SAFE if not p else [-1.0] * 5)
    assert (answer.finish_reason, answer.refusal_at) == ("refusal", None)


def test_a_refusal_without_end_is_none():
    steps: list[Expand] = []
    answer = drive(
        saffron_search(inputs(width=1)),
        lambda p: chances(t0=0.97, t1=0.01, t2=0.01, t3=0.01),
        lambda p: rewards(p),
        steps.append,
    )
    assert (answer.finish_reason, answer.refusal_at) == ("refusal", None)
    assert len(steps) <= 3 + MOST_TOKENS


def test_a_refusal_stays_within_the_budget():
    for calls in range(1, 12):
        budget = BudgetMeter(ComputeBudget(max_reward_calls=calls, on_exhausted="stop"), calls_per_row=1)
        answer = drive(
            saffron_search(inputs(width=1, budget=budget)),
            logits,
            rewards,
            lambda e, budget=budget: budget.book(e.nodes),
        )
        assert budget.reward_calls <= calls
        assert (answer.refusal_at is not None) == (calls >= 7), calls
