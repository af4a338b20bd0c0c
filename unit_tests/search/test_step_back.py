"""Going back to roads not taken: what is found so, what is never taken back, and what it may cost."""

import random
from itertools import pairwise

import pytest

from langchain_saffron.search import Answer, Expand, SearchInputs
from langchain_saffron.search.abandoned import MOST_STEPS_BACK
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.settings import ComputeBudget, SearchSettings
from unit_tests.tables import chances, drive, response

END = 4
SAFE, BAD = [3.0] * 5, [-5.0] * 5


def inputs(**changes: object) -> SearchInputs:
    outer = {name: changes.pop(name) for name in ("seen", "budget", "stops", "trace") if name in changes}
    values: dict[str, object] = {"top_p": 1.0, "max_tokens": 8, "safety_threshold": 2.0, "step_back": True}
    return SearchInputs(settings=SearchSettings(**{**values, **changes}), end_tokens=(END,), **outer)  # type: ignore[arg-type]


def hidden_road(prefix: tuple[int, ...]) -> list[float]:
    """The likelier of the first tokens looks better and leads nowhere safe; the other one does."""
    if not prefix:
        return [0.0, -0.5, -1.0, -1.5, 0.0]
    return SAFE if prefix[0] == 1 else BAD


def forks(prefix: tuple[int, ...]) -> list[float]:
    if len(prefix) > 4:
        return chances(t4=1.0)
    return chances(t0=0.5, t1=0.2, t2=0.2, t3=0.1) if not prefix else chances(t0=0.6, t2=0.4)


def test_a_road_that_was_not_taken_is_found_again():
    lost = drive(saffron_search(inputs(width=1, step_back=False)), forks, hidden_road)
    assert lost.reward == -5.0
    assert (lost.steps_back, lost.reopened) == (0, 0)
    found = drive(saffron_search(inputs(width=1)), forks, hidden_road)
    assert found.tokens == (1, 0, 0, 0, 0, END)
    assert found.reward == 3.0
    assert (found.steps_back, found.reopened) == (1, 1)


def test_the_same_with_the_ranking_of_the_paper_and_under_a_temperature():
    for changes in ({"ranking": "paper"}, {"temperature": 0.7, "seed": 3}):
        found = drive(saffron_search(inputs(width=1, **changes)), forks, hidden_road)
        assert (found.tokens[0], found.reward) == (1, 3.0)
        again = drive(saffron_search(inputs(width=1, **changes)), forks, hidden_road)
        assert again.tokens == found.tokens


def test_a_dead_end_is_left_before_anything_is_refused():
    def rewards(prefix: tuple[int, ...]) -> list[float]:
        return hidden_road(prefix) if not prefix or prefix[0] == 1 else [-9.0] * 5

    kept = drive(saffron_search(inputs(width=1, refusal_threshold=-4.0)), forks, rewards)
    assert (kept.tokens[0], kept.finish_reason) == (1, "stop")
    refused = drive(saffron_search(inputs(width=1, refusal_threshold=-4.0, step_back=False)), forks, rewards)
    assert refused.finish_reason == "refusal"


def test_what_is_final_is_never_taken_back():
    """Two safe tokens are shown; the road beside them would have been safe, the one below them is not."""
    steps: list[Expand] = []

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        return SAFE if len(prefix) < 2 or prefix[:2] != (0, 0) else BAD

    answer = drive(saffron_search(inputs(width=1)), forks, rewards, steps.append)
    assert answer.tokens[:2] == (0, 0)
    assert answer.steps_back == 0
    assert [token for step in steps[:3] for token in step.committed] == [0, 0]


def random_world(seed: int, traps: float = 0.5):
    """Nothing is safe but a few roads, and many others end in traps: from there on, all is worse."""

    def draw(name: str, prefix: tuple[int, ...]) -> random.Random:
        return random.Random(f"{seed} {name} {prefix}")

    def trapped(prefix: tuple[int, ...]) -> bool:
        return any(draw("trap", prefix[:size]).random() < traps for size in range(1, len(prefix) + 1))

    def logits(prefix: tuple[int, ...]) -> list[float]:
        rng = draw("policy", prefix)
        return [1.5 * rng.gauss(0, 1) - 4 * (token == END) for token in range(5)]

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        rng, worse = draw("reward", prefix), 5.0 * trapped(prefix)
        return [rng.gauss(-1, 0.5) + 4 * (rng.random() < 0.03) - worse for _ in range(5)]

    return logits, rewards


@pytest.mark.parametrize("lag", [None, 2, 3])
def test_no_world_makes_it_take_back_what_it_showed_or_go_on_for_ever(lag: int | None):
    went_back = 0
    for seed in range(12):
        logits, rewards = random_world(seed)
        for width in (1, 3):
            shown: list[int] = []
            steps: list[Expand] = []

            def look(expand: Expand, shown: list[int] = shown, steps: list[Expand] = steps, width: int = width) -> None:
                shown.extend(expand.committed)
                steps.append(expand)
                assert all(response(node)[: len(shown)] == tuple(shown) for node in expand.nodes)
                lengths = {node.length for node in expand.nodes}
                assert len(lengths) == 1, "beams that are live together are equally long"
                assert len(expand.nodes) <= width

            trace: list[list[list[int]]] = []
            answer = drive(
                saffron_search(inputs(width=width, commit_lag=lag, max_tokens=10, trace=trace)), logits, rewards, look
            )
            assert list(answer.tokens[: len(shown)]) == shown
            assert answer.steps_back <= MOST_STEPS_BACK
            assert answer.steps_back <= answer.reopened <= width * answer.steps_back
            assert len(steps) <= 10 * (1 + answer.steps_back)
            assert len(trace) == len(steps)
            # what is asked for has its parent in the cache: going back computes nothing anew
            for before, after in pairwise(steps):
                there = {*before.nodes, *before.spare}
                assert all(node.parent in there for node in after.nodes)
            went_back += answer.steps_back
    assert went_back > (10 if lag is None else 2)


def test_going_back_stays_within_the_budget():
    for seed in range(8):
        logits, rewards = random_world(seed)
        for behaviour in ("stop", "narrow", "refuse"):
            budget = BudgetMeter(ComputeBudget(max_reward_calls=25, on_exhausted=behaviour), calls_per_row=1)
            spent = 0

            def pay(expand: Expand, budget: BudgetMeter = budget) -> None:
                nonlocal spent
                spent += len(expand.nodes)
                budget.book(expand.nodes)

            answer = drive(saffron_search(inputs(width=3, max_tokens=10, budget=budget)), logits, rewards, pay)
            assert spent <= 25
            assert answer.budget_exhausted == (answer.finish_reason in ("budget", "refusal"))


def plain(answer: Answer) -> tuple[object, ...]:
    return answer.tokens, answer.finish_reason, answer.reward


def test_where_nothing_is_safer_nothing_changes():
    for seed in range(6):
        logits, _ = random_world(seed)
        for width in (1, 4):
            for reward in (-3.0, 3.0):
                on, off = (
                    drive(saffron_search(inputs(width=width, step_back=back)), logits, lambda p, r=reward: [r] * 5)
                    for back in (True, False)
                )
                assert plain(on) == plain(off)
                assert on.steps_back == 0


def test_safe_text_is_shown_as_soon_as_ever_and_unsafe_text_is_held_back():
    shown: dict[tuple[bool, float], list[int]] = {}
    for back in (True, False):
        for reward in (3.0, 0.0):
            steps = shown[back, reward] = []
            drive(
                saffron_search(inputs(width=1, max_tokens=4, step_back=back)),
                lambda p: chances(t0=1.0),
                lambda p, r=reward: [r] * 5,
                lambda e, steps=steps: steps.append(len(e.committed)),
            )
    assert shown[True, 3.0] == shown[False, 3.0] == shown[False, 0.0] == [0, 1, 1, 1]
    assert shown[True, 0.0] == [0, 0, 0, 0]


def test_the_commit_lag_holds_for_unsafe_text_too():
    steps: list[int] = []
    drive(
        saffron_search(inputs(width=1, max_tokens=6, commit_lag=2)),
        lambda p: chances(t0=1.0),
        lambda p: [0.0] * 5,
        lambda e: steps.append(len(e.committed)),
    )
    assert steps == [0, 0, 1, 1, 1, 1]


def test_safe_roads_are_found_far_more_often():
    safe = {True: 0, False: 0}
    for seed in range(40):
        logits, rewards = random_world(seed)
        for back in (True, False):
            answer = drive(saffron_search(inputs(width=2, step_back=back, max_tokens=12)), logits, rewards)
            safe[back] += answer.reward is not None and answer.reward >= 2.0
    assert safe[True] > safe[False] + 10


def test_a_road_that_branched_off_where_all_came_to_harm_is_not_the_first_to_be_tried():
    """Each road seems as safe as the next, and a little safer the later; whatever begins with 0 comes to harm."""

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return chances(t4=1.0) if len(prefix) == 6 else chances(t0=0.6, t1=0.4)

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        if prefix[:1] == (1,):
            return [3.0 if len(prefix) > 1 else -1.0] * 5
        return BAD if len(prefix) >= 4 else [-1.0 + 0.1 * len(prefix)] * 5

    answer = drive(saffron_search(inputs(width=1)), logits, rewards)
    assert (answer.tokens[0], answer.reward) == (1, 3.0)
    # the later ones are nearer to where the first came to harm
    assert answer.steps_back == 1
