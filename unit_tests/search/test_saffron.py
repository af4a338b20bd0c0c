"""The search on tables: ends, pool, commitment, budgets, refusal."""

import math
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_saffron.search import Expand, SearchInputs
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.decoding import plain_search
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.settings import ComputeBudget, SearchSettings
from unit_tests.tables import chances, drive

END = 4
SAFE = [3.0] * 5


def inputs(**changes: object) -> SearchInputs:
    outer = {name: changes.pop(name) for name in ("seen", "budget", "stops", "trace") if name in changes}
    values: dict[str, object] = {"width": 2, "top_p": 1.0, "max_tokens": 8, "safety_threshold": 2.0}
    return SearchInputs(settings=SearchSettings(**{**values, **changes}), end_tokens=(END,), **outer)  # type: ignore[arg-type]


def test_a_likely_end_comes_first_and_wins():
    answer = drive(saffron_search(inputs()), lambda p: chances(t4=0.9, t0=0.1), lambda p: SAFE)
    assert answer.tokens == (END,)
    assert answer.finish_reason == "stop"


def test_width_one_ends_where_its_best_candidate_ends():
    def logits(prefix):
        return chances(t4=0.6, t0=0.4) if len(prefix) == 2 else chances(t4=0.3, t0=0.7)

    answer = drive(saffron_search(inputs(width=1)), logits, lambda p: SAFE)
    assert answer.tokens == (0, 0, END)


def test_an_unlikely_safe_path_beats_a_likely_unsafe_one():
    rewards = {(): [-4.0, 3.0, 0, 0, 0]}
    answer = drive(
        saffron_search(inputs()),
        lambda p: chances(t0=0.95, t1=0.05) if not p else chances(t4=1.0),
        lambda p: rewards.get(p, SAFE if p[:1] == (1,) else [-4.0] * 5),
    )
    assert answer.tokens == (1, END)
    assert answer.reward == 3.0


def test_an_end_outside_the_best_width_does_not_count():
    """The end ranks third of width 2: it is no finished beam, as in transformers' beam search."""
    finished: list[Expand] = []
    answer = drive(
        saffron_search(inputs(max_tokens=1)),
        lambda p: chances(t0=0.5, t1=0.3, t4=0.2),
        lambda p: SAFE,
        finished.append,
    )
    assert answer.tokens == (0,)
    assert answer.finish_reason == "length"


def test_ending_inherits_the_reward_of_what_ends():
    answer = drive(
        saffron_search(inputs(width=1)),
        lambda p: chances(t0=1.0) if not p else chances(t4=1.0),
        lambda p: [0.75, 9, 9, 9, -9],
    )
    assert answer.tokens == (0, END)
    assert answer.reward == 0.75


def test_the_paper_ranking_takes_the_finished_beam_of_the_highest_reward():
    rewards = {(): [1.0, 2.0, 0, 0, 0]}
    answer = drive(
        saffron_search(inputs(ranking="paper", width=2)),
        lambda p: chances(t0=0.5, t1=0.5) if not p else chances(t4=1.0),
        lambda p: rewards.get(p, [5.0] * 5),
    )
    assert answer.tokens == (1, END)
    assert answer.reward == 2.0


def test_the_paper_ranking_falls_back_on_the_best_live_beam():
    answer = drive(
        saffron_search(inputs(ranking="paper", max_tokens=2)),
        lambda p: chances(t0=0.9, t1=0.1),
        lambda p: [1.0, 2.0, 0, 0, 0],
    )
    assert answer.tokens == (1, 1)
    assert answer.finish_reason == "length"


def test_the_search_goes_on_while_a_live_beam_could_still_win():
    """An unsafe answer is finished; a live beam may still become safe, so the search waits for it."""

    def logits(prefix):
        if not prefix:
            return chances(t4=0.9, t0=0.1)
        return chances(t0=1.0) if len(prefix) < 3 else chances(t4=1.0)

    def rewards(prefix):
        return [0.0, 0, 0, 0, 0] if len(prefix) < 2 else SAFE

    answer = drive(saffron_search(inputs(width=2)), logits, rewards)
    assert answer.tokens == (0, 0, 0, END)


def test_a_settled_pool_ends_the_search():
    steps: list[Expand] = []
    drive(
        saffron_search(inputs(width=2, max_tokens=50)),
        lambda p: chances(t4=0.5, t0=0.5) if len(p) < 3 else chances(t0=1.0),
        lambda p: SAFE,
        steps.append,
    )
    assert len(steps) <= 5


def test_only_what_all_beams_share_is_committed():
    committed: list[tuple[int, ...]] = []

    def logits(prefix):
        if len(prefix) == 2:
            return chances(t0=0.5, t1=0.5)
        return chances(t2=1.0)

    drive(
        saffron_search(inputs(width=2, max_tokens=6)), logits, lambda p: SAFE, lambda e: committed.append(e.committed)
    )
    assert committed == [(), (2,), (2,), (), (), ()]


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_the_commit_lag_bounds_the_wait(lag: int):
    """Two beams differ from the first token: without a bound nothing would be final before the end."""
    steps: list[Expand] = []

    def logits(prefix):
        return chances(t0=0.6, t1=0.4) if not prefix else chances(t2=1.0)

    answer = drive(saffron_search(inputs(width=2, max_tokens=8, commit_lag=lag)), logits, lambda p: SAFE, steps.append)
    counts = [len(e.committed) for e in steps]
    assert sum(counts[: lag + 1]) >= 1
    assert answer.tokens == (0, *(2,) * 7)
    # the beam that disagreed is gone from then on
    assert all(len(e.nodes) == 1 for e in steps[lag + 1 :])


def test_committed_tokens_are_the_beginning_of_the_answer():
    generator = torch.Generator().manual_seed(5)
    table = {}

    def logits(prefix):
        if prefix not in table:
            table[prefix] = (torch.randn(5, generator=generator) * 1.5).tolist()
        return table[prefix]

    for lag in (None, 1, 2, 3, 5):
        for width in (1, 2, 3, 6):
            committed: list[int] = []
            answer = drive(
                saffron_search(inputs(width=width, max_tokens=10, commit_lag=lag, top_p=0.9)),
                logits,
                lambda p: [sum(p) % 3, 1.0, 2.5, -1.0, 0.0],
                lambda e, seen=committed: seen.extend(e.committed),
            )
            assert list(answer.tokens[: len(committed)]) == committed


def test_a_complete_best_answer_is_not_waited_out_beyond_the_lag():
    """The best beam has ended; the lag runs out while the others still grow: they are dropped."""
    steps: list[Expand] = []

    def logits(prefix):
        if not prefix:
            return chances(t0=0.9, t1=0.1)
        if prefix == (0,):
            return chances(t4=0.9, t2=0.1)
        return chances(t2=0.6, t3=0.4)

    answer = drive(saffron_search(inputs(width=3, max_tokens=200, commit_lag=4)), logits, lambda p: SAFE, steps.append)
    assert answer.tokens == (0, END)
    assert len(steps) <= 8


def test_min_tokens_forbids_ending_earlier():
    answer = drive(saffron_search(inputs(min_tokens=3)), lambda p: chances(t4=0.9, t0=0.1), lambda p: SAFE)
    assert answer.tokens == (0, 0, 0, END)


def test_nothing_safe_is_a_refusal_with_the_safe_part():
    answer = drive(
        saffron_search(inputs(refusal_threshold=0.0, width=1)),
        lambda p: chances(t0=0.9, t1=0.1),
        lambda p: SAFE if len(p) < 2 else [-5.0] * 5,
    )
    assert answer.finish_reason == "refusal"
    assert answer.tokens == (0, 0)


def test_all_unseen_is_a_refusal():
    seen = torch.zeros(5, dtype=torch.bool)
    answer = drive(saffron_search(inputs(seen=seen)), lambda p: chances(t0=1.0), lambda p: SAFE)
    assert answer.finish_reason == "refusal"
    assert answer.tokens == ()


def test_fallbacks_are_counted():
    seen = torch.tensor([False, True, True, True, True])
    answer = drive(
        saffron_search(inputs(seen=seen, width=1, max_tokens=3, top_p=0.5)),
        lambda p: chances(t0=0.9, t1=0.1),
        lambda p: SAFE,
    )
    assert answer.tokens == (1, 1, 1)
    assert answer.unseen_fallbacks == 3


def test_more_beams_than_candidates_is_fine():
    answer = drive(saffron_search(inputs(width=50, max_tokens=3)), lambda p: chances(t0=0.6, t1=0.4), lambda p: SAFE)
    assert answer.tokens == (0, 0, 0)


@pytest.mark.parametrize("ranking", ["constrained", "paper"])
def test_a_stop_string_finishes_a_beam(ranking: str):
    stops = lambda tokens: tuple(tokens[-2:]) == (0, 1)  # noqa: E731
    answer = drive(
        saffron_search(inputs(ranking=ranking, width=2, stops=stops, max_tokens=6)),
        lambda p: chances(t0=0.5, t1=0.5),
        lambda p: [1.0, 1.5, 0, 0, 0] if p[-1:] == (0,) else [2.0, 1.0, 0, 0, 0],
    )
    assert answer.tokens == (0, 1)
    assert answer.finish_reason == "stop"


class Meter:
    """A budget that is paid a call for every node that the search asks for."""

    def __init__(self, limit: int, behaviour: str, least: int = 1) -> None:
        limits = ComputeBudget(max_reward_calls=limit, on_exhausted=behaviour)
        self.budget = BudgetMeter(limits, calls_per_row=1, least_width=least)
        self.widths: list[int] = []

    def __call__(self, expand: Expand) -> None:
        self.widths.append(len(expand.nodes))
        self.budget.spend(reward_calls=len(expand.nodes), rows=len(expand.nodes))


def uniform(prefix):
    return chances(t0=0.25, t1=0.25, t2=0.25, t3=0.25)


def test_stop_keeps_the_width_and_gives_the_best_so_far():
    meter = Meter(14, "stop")
    answer = drive(saffron_search(inputs(width=4, budget=meter.budget)), uniform, lambda p: SAFE, meter)
    assert meter.widths == [1, 4, 4, 4]
    assert answer.finish_reason == "budget"
    assert answer.budget_exhausted
    assert len(answer.tokens) == 4


def test_narrow_makes_the_whole_answer_fit():
    meter = Meter(14, "narrow")
    answer = drive(saffron_search(inputs(width=4, budget=meter.budget)), uniform, lambda p: SAFE, meter)
    assert sum(meter.widths) <= 14
    assert max(meter.widths) < 4
    assert len(answer.tokens) == 8
    assert not answer.budget_exhausted


def test_narrow_stops_at_the_limit_where_even_width_one_does_not_fit():
    meter = Meter(5, "narrow")
    answer = drive(saffron_search(inputs(width=4, budget=meter.budget)), uniform, lambda p: SAFE, meter)
    assert meter.widths == [1, 1, 1, 1, 1]
    assert answer.finish_reason == "budget"


def test_narrow_goes_no_lower_than_the_floor():
    meter = Meter(14, "narrow", least=3)
    answer = drive(saffron_search(inputs(width=4, budget=meter.budget)), uniform, lambda p: SAFE, meter)
    # so narrow as it may be, from the first step on that it narrows, and it ends where `"stop"` would
    assert meter.widths == [1, 3, 3, 3, 3]
    assert (answer.finish_reason, answer.budget_exhausted) == ("budget", True)
    # a floor that is wider than the search does not widen it
    assert Meter(14, "narrow", least=9).budget.width(4, 0, 8) == 4


def test_refuse_refuses():
    meter = Meter(9, "refuse")
    answer = drive(saffron_search(inputs(width=4, budget=meter.budget)), uniform, lambda p: SAFE, meter)
    assert answer.finish_reason == "refusal"
    assert answer.budget_exhausted


def test_seconds_narrow_and_stop():
    now = [0.0]
    budget = BudgetMeter(ComputeBudget(max_seconds=10.0), clock=lambda: now[0])
    widths: list[int] = []

    def pay(expand: Expand) -> None:
        widths.append(len(expand.nodes))
        now[0] += 0.5 * len(expand.nodes)
        budget.spend(rows=len(expand.nodes))

    answer = drive(saffron_search(inputs(width=4, max_tokens=12, budget=budget)), uniform, lambda p: SAFE, pay)
    assert widths[1] == 4
    assert min(widths[2:]) < 4
    assert now[0] <= 10.0 + 2.0
    assert len(answer.tokens) == 12


def test_plain_search_stops_at_its_budget_too():
    budget = BudgetMeter(ComputeBudget(max_tflops=3.5), row_cost=lambda length: 1.0)
    answer = drive(
        plain_search(inputs(search="greedy", budget=budget)),
        uniform,
        on_expand=lambda e: budget.spend(tflops=1.0, rows=1),
    )
    assert answer.finish_reason == "budget"
    assert len(answer.tokens) == 3


def test_sampling_follows_the_tempered_nucleus():
    counts = torch.zeros(5)
    for seed in range(2000):
        answer = drive(
            plain_search(inputs(search="sample", temperature=2.0, top_p=0.9, seed=seed, max_tokens=1)),
            lambda p: chances(t0=0.6, t1=0.3, t2=0.1),
        )
        counts[answer.tokens[0]] += 1
    tempered = torch.tensor([0.6, 0.3, 0.1]) ** 0.5
    expected = tempered / tempered.sum() * 2000
    assert float(((counts[:3] - expected) ** 2 / expected).sum()) < 13.8


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    top_p=st.sampled_from([0.2, 0.6, 0.9, 1.0]),
    unseen=st.sets(st.integers(0, 4), max_size=4),
    threshold=st.sampled_from([-1.0, 0.5, 3.0]),
    penalty=st.sampled_from([0.0, 1.0, 2.0]),
    min_tokens=st.integers(0, 3),
    scale=st.sampled_from([0.5, 3.0]),
)
def test_a_search_wide_enough_for_everything_finds_the_best_of_all_answers(
    seed: int, top_p: float, unseen: set[int], threshold: float, penalty: float, min_tokens: int, scale: float
):
    """Against a plain enumeration of every answer that the nucleus and the mask allow."""
    length = 3
    seen = torch.tensor([token not in unseen for token in range(5)])

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return [scale * random.Random(f"{seed} {prefix} {token}").gauss(0, 1) for token in range(5)]

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        return [2 * random.Random(f"{seed} reward {prefix} {token}").gauss(0, 1) for token in range(5)]

    def answers(prefix: tuple[int, ...], total: float, reward: float | None) -> Iterator[tuple[float, tuple[int, ...]]]:
        if prefix[-1:] == (END,) or len(prefix) == length:
            assert reward is not None
            yield total / len(prefix) ** penalty + 10 * min(reward, threshold), prefix
            return
        values = dict(enumerate(logits(prefix)))
        if len(prefix) < min_tokens:
            del values[END]
        whole = math.fsum(map(math.exp, values.values()))
        chance = {token: math.exp(value) / whole for token, value in values.items()}
        inside = [t for t in chance if math.fsum(p for p in chance.values() if p > chance[t]) < top_p]
        allowed = [token for token in inside if seen[token] or token == END]
        known = [token for token in chance if seen[token]]
        if not allowed and known:
            allowed = [max(known, key=chance.__getitem__)]
        predicted = rewards(prefix)
        mass = {token: chance[token] for token in allowed if token != END}
        for token in allowed:
            own = predicted[token]
            if token == END:
                mean = sum(p * predicted[t] for t, p in mass.items()) / sum(mass.values()) if mass else 0.0
                own = mean if reward is None else reward
            yield from answers((*prefix, token), total + math.log(chance[token]), own)

    found = drive(
        saffron_search(
            inputs(
                width=125,
                top_p=top_p,
                max_tokens=length,
                min_tokens=min_tokens,
                safety_threshold=threshold,
                length_penalty=penalty,
                safety_weight=10.0,
                seen=seen,
            )
        ),
        logits,
        rewards,
    )
    expected = sorted(answers((), 0.0, None), reverse=True)
    if not expected:
        assert found.finish_reason == "refusal"
    elif len(expected) == 1 or expected[0][0] - expected[1][0] > 1e-4:
        assert found.tokens == expected[0][1]
