"""The soft mask, against its definition: one step at a time, and whole answers by enumeration."""

import math
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_saffron.search import SearchInputs
from langchain_saffron.search.mask import UNSEEN_COST
from langchain_saffron.search.nucleus import CHUNK
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.search.selection import select
from langchain_saffron.settings import SearchSettings
from unit_tests.tables import drive, rules

END = 4


def chances_of(logits: list[float]) -> list[float]:
    whole = math.fsum(map(math.exp, logits))
    return [math.exp(value) / whole for value in logits]


def nucleus_of(chance: list[float], top_p: float) -> list[int]:
    return [t for t, own in enumerate(chance) if math.fsum(p for p in chance if p > own) < top_p]


def presumed_of(
    chance: list[float], inside: list[int], predicted: list[float], seen: list[bool], own: float | None
) -> float:
    """What unseen tokens are taken for: the beam's own reward; at the root, the mean over what is seen."""
    if own is not None:
        return own
    known = [t for t in inside if seen[t] and t != END] or [t for t in range(len(chance)) if seen[t] and t != END]
    mass = math.fsum(chance[t] for t in known)
    return math.fsum(chance[t] * predicted[t] for t in known) / mass if mass else 0.0


def tilted(chance: list[float], inside: list[int], seen: list[bool], cost: float) -> dict[int, float]:
    """The nucleus with its unseen tokens less likely by `exp(-cost)`, all of it as likely as it was."""
    lower = {t: chance[t] * (1.0 if seen[t] or t == END else math.exp(-cost)) for t in inside}
    share = math.fsum(chance[t] for t in inside) / math.fsum(lower.values())
    return {t: math.log(value * share) for t, value in lower.items()}


@pytest.mark.parametrize("size", [5, 3 * CHUNK])
@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("own", [None, -1.5, 3.0])
def test_a_step_is_that_of_the_definition(size: int, paper: bool, share: float, own: float | None):
    for seed in range(4):
        draw = random.Random(f"{seed} {size}")
        logits = [3 * draw.gauss(0, 1) for _ in range(size)]
        predicted = [2 * draw.gauss(0, 1) for _ in range(size)]
        seen = [draw.random() < share for _ in range(size)]
        found = select(
            torch.tensor([logits]),
            torch.tensor([predicted]),
            [-0.5],
            [own],
            rules(seen=torch.tensor(seen), soft=True, paper=paper),
            count=size,
            may_end=True,
        )
        chance = chances_of(logits)
        inside = nucleus_of(chance, 0.8)
        presumed = presumed_of(chance, inside, predicted, seen, own)
        rewards = {t: predicted[t] if seen[t] else presumed for t in inside}
        others = [t for t in inside if t != END]
        mass = math.fsum(chance[t] for t in others)
        if END in rewards:
            mean = math.fsum(chance[t] * rewards[t] for t in others) / mass if others else 0.0
            rewards[END] = mean if own is None else own
        likely = tilted(chance, inside, seen, 3 * UNSEEN_COST)
        for candidate in found.candidates:
            token = candidate.token
            charged = 0.0 if seen[token] or token == END else UNSEEN_COST
            assert candidate.reward == pytest.approx(rewards[token], abs=1e-4)
            assert candidate.logprob == pytest.approx(likely[token], abs=1e-4)
            score = -0.5 + candidate.logprob + 3 * min(candidate.reward, 2.0)
            assert candidate.score == pytest.approx(candidate.reward - charged if paper else score, abs=1e-4)
        assert {candidate.token for candidate in found.candidates} == set(inside)
        assert found.fallbacks == 0


def test_where_nothing_near_is_seen_the_root_looks_farther():
    seen = torch.tensor([False] * 4 + [True] + [False] * (3 * CHUNK - 6) + [True])
    chance = torch.full((3 * CHUNK,), 1e-6)
    chance[0], chance[-1] = 0.9, 1e-9
    predicted = torch.zeros(3 * CHUNK)
    predicted[-1] = 1.75
    found = select(chance.log()[None], predicted[None], [0.0], [None], rules(seen=seen, soft=True), 3, True)
    assert [c.token for c in found.candidates] == [0]
    assert found.candidates[0].reward == pytest.approx(1.75)


def test_what_no_seen_token_could_stand_for_costs_nothing():
    seen = torch.tensor([False, False, True, True, True])
    alone = torch.tensor([[0.9, 0.025, 0.025, 0.025, 0.025]]).log()
    found = select(alone, torch.ones(1, 5), [0.0], [1.0], rules(seen=seen, soft=True), 5, True)
    assert [(c.token, c.logprob) for c in found.candidates] == [(0, pytest.approx(math.log(0.9), abs=1e-5))]
    contested = torch.tensor([[0.5, 0.05, 0.4, 0.025, 0.025]]).log()
    found = select(contested, torch.ones(1, 5), [0.0], [1.0], rules(seen=seen, soft=True), 5, True)
    assert [c.token for c in found.candidates] == [2, 0]


def test_a_doubt_makes_unseen_tokens_less_safe_and_no_others():
    seen = torch.tensor([True, False, True, False, False])
    logits, rewards = torch.randn(2, 5), torch.randn(2, 5)
    for own in (0.5, None):
        plain, doubted = (
            select(
                logits, rewards, [0.0, 0.0], [own] * 2, rules(seen=seen, soft=True, top_p=1.0, doubt=doubt), 10, True
            )
            for doubt in (0.0, 1.5)
        )
        before = {(c.beam, c.token): c.reward for c in plain.candidates}
        assert len(before) == 10
        for c in doubted.candidates:
            less = 1.5 if c.token in (1, 3) else 0.0
            # at the root, ending stands for what is in the nucleus, unseen tokens among it
            if not (own is None and c.token == END):
                assert c.reward == pytest.approx(before[c.beam, c.token] - less, abs=1e-5)
    for changes in ({"seen": seen, "soft": False}, {"seen": None}):
        found = [
            select(logits, rewards, [0.0, 0.0], [0.5] * 2, rules(top_p=1.0, doubt=doubt, **changes), 10, True)
            for doubt in (0.0, 1.5)
        ]
        assert found[0] == found[1], "nothing is presumed"


def test_without_a_safety_weight_the_soft_mask_costs_nothing():
    logits, rewards = torch.randn(1, 5), torch.randn(1, 5)
    seen = torch.zeros(5, dtype=torch.bool)
    asked = [rules(seen=seen, soft=True, weight=0.0), rules(weight=0.0)]
    soft, off = (select(logits, rewards, [0.0], [1.0], one, 5, True).candidates for one in asked)
    assert [(c.token, c.score) for c in soft] == [(c.token, c.score) for c in off]


def test_nothing_below_the_refusal_threshold_passes_as_unseen():
    seen = torch.tensor([False, True, True, True, False])
    asked = rules(seen=seen, soft=True, refusal_threshold=0.0, top_p=1.0)
    found = select(torch.zeros(1, 5), torch.ones(1, 5), [0.0], [-1.0], asked, 5, True)
    assert sorted(c.token for c in found.candidates) == [1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    top_p=st.sampled_from([0.2, 0.6, 1.0]),
    unseen=st.sets(st.integers(0, 4), max_size=5),
    threshold=st.sampled_from([-1.0, 0.5, 3.0]),
)
def test_a_search_wide_enough_finds_the_best_answer_under_the_soft_mask(
    seed: int, top_p: float, unseen: set[int], threshold: float
):
    seen = [token not in unseen for token in range(5)]
    length = 3

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return [random.Random(f"{seed} {prefix} {token}").gauss(0, 1) for token in range(5)]

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        return [2 * random.Random(f"{seed} reward {prefix} {token}").gauss(0, 1) for token in range(5)]

    def answers(prefix: tuple[int, ...], total: float, own: float | None) -> Iterator[tuple[float, tuple[int, ...]]]:
        if prefix[-1:] == (END,) or len(prefix) == length:
            assert own is not None
            yield total / len(prefix) + 2 * min(own, threshold), prefix
            return
        chance, predicted = chances_of(logits(prefix)), rewards(prefix)
        inside = nucleus_of(chance, top_p)
        presumed = presumed_of(chance, inside, predicted, seen, own)
        worth = {t: predicted[t] if seen[t] else presumed for t in inside if t != END}
        mass = math.fsum(chance[t] for t in worth)
        likely = tilted(chance, inside, seen, 2 * UNSEEN_COST)
        for token in inside:
            if token in worth:
                reward = worth[token]
            elif own is not None:
                reward = own
            else:
                reward = math.fsum(chance[t] * worth[t] for t in worth) / mass if worth else 0.0
            yield from answers((*prefix, token), total + likely[token], reward)

    asked = SearchSettings(
        width=125, top_p=top_p, max_tokens=length, safety_threshold=threshold, safety_weight=2.0, mask="soft"
    )
    found = drive(saffron_search(SearchInputs(asked, (END,), torch.tensor(seen))), logits, rewards)
    expected = sorted(answers((), 0.0, None), reverse=True)
    if len(expected) == 1 or expected[0][0] - expected[1][0] > 1e-4:
        assert found.tokens == expected[0][1]
