"""Searches that are told that there was no room for all of their nodes: on tables of numbers."""

from random import Random

import pytest

from langchain_saffron.search import Answer, Expand, Search, SearchInputs
from langchain_saffron.search.best_of_n import best_of_n_search
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.deal import deal_search
from langchain_saffron.search.rebase import rebase_search
from langchain_saffron.search.recorder import Recorder
from langchain_saffron.search.room import Room
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.settings import ComputeBudget, SearchSettings
from unit_tests.search.test_step_back import BAD, SAFE
from unit_tests.search.test_verify import inputs as verifying
from unit_tests.search.test_verify import of_first, sentences, trusting
from unit_tests.tables import chances, drive, response

END = 4


def inputs(budget: BudgetMeter | None = None, recorder: Recorder | None = None, **changes: object) -> SearchInputs:
    values: dict[str, object] = {"width": 8, "top_p": 1.0, "max_tokens": 9, "safety_threshold": 2.0, "min_width": 1}
    settings = SearchSettings(**{**values, **changes})  # type: ignore[arg-type]
    return SearchInputs(settings, (END,), trace=[], budget=budget or BudgetMeter(), recorder=recorder)


class Table:
    """Random numbers of every prefix, the same every time; nothing ends."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def logits(self, prefix: tuple[int, ...]) -> list[float]:
        rng = Random(f"{self.seed} logits {prefix}")
        return [*(rng.gauss(0, 1.5) for _ in range(4)), -float("inf")]

    def rewards(self, prefix: tuple[int, ...]) -> list[float]:
        rng = Random(f"{self.seed} rewards {prefix}")
        return [rng.gauss(2, 2) for _ in range(5)]

    def reward(self, prefix: tuple[int, ...]) -> float:
        return Random(f"{self.seed} reward {prefix}").gauss(2, 2)


class Planned(BudgetMeter):
    """Says how wide a search is to be at every length."""

    def __init__(self, widths: dict[int, int]) -> None:
        super().__init__()
        self.widths = widths

    def width(self, requested: int, length: int, steps: int) -> int:
        return self.widths.get(length, requested)


def booked(search: Search, budget: BudgetMeter) -> Search:
    """A search whose scores are paid for as the engine does."""
    expand = next(search)
    while True:
        scores = yield expand
        budget.book(expand.nodes[: len(scores.logits)], expand.prm_nodes)
        try:
            expand = search.send(scores)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.8, "seed": 5}, {"adaptive": True}])
def test_it_is_the_search_that_was_meant_to_be_so_wide_at_every_step(seed, changes):
    table, rng, follow, widths = Table(seed), Random(seed), Room(8), dict[int, int]()

    def room(expand: Expand) -> int:
        asked, length = len(expand.nodes), expand.nodes[0].length
        widths[length] = min(rng.choice([1, 2, 3, 5, 8]), asked)
        follow.note(asked, widths[length])
        # of the last step, nobody asks again
        widths[length + 1] = follow.width
        return widths[length]

    one, other = inputs(**changes), inputs(Planned(widths), **changes)
    narrowed = drive(saffron_search(one), table.logits, table.rewards, room=room)
    planned = drive(saffron_search(other), table.logits, table.rewards)
    assert (narrowed.tokens, narrowed.reward) == (planned.tokens, planned.reward)
    # what every step scored; what it kept before it knew of the room is more
    assert one.trace
    assert other.trace
    assert [kept[: len(scored)] for kept, scored in zip(one.trace, other.trace, strict=True)] == other.trace
    assert (narrowed.narrowed, narrowed.narrowest_width) == (follow.narrowed, follow.narrowest)
    assert narrowed.narrowed > 0 or changes == {"adaptive": True}
    assert (planned.narrowed, planned.narrowest_width) == (0, None)


def test_it_grows_again_as_soon_as_there_is_room():
    asked: list[int] = []
    rooms = [8, 8, 8, 2, 8, 8, 8, 8, 8]
    table = Table(1)
    answer = drive(
        saffron_search(inputs()),
        table.logits,
        table.rewards,
        lambda expand: asked.append(len(expand.nodes)),
        room=lambda expand: rooms[expand.nodes[0].length],
    )
    assert asked == [1, 4, 8, 8, 2, 4, 8, 8, 8]
    assert (answer.narrowed, answer.narrowest_width, answer.width) == (1, 2, 8)


@pytest.mark.parametrize(
    ("least", "floor", "allowed"),
    [(None, None, 1), (1, None, 1), (3, None, 3), (8, None, 8), (99, None, 8), (None, 3, 3), (2, 3, 3), (5, 3, 5)],
)
def test_no_fewer_than_the_user_and_the_operator_want(least, floor, allowed):
    table, asked = Table(2), list[Expand]()
    answer = drive(
        saffron_search(inputs(min_width=least, width_floor=floor)),
        table.logits,
        table.rewards,
        asked.append,
        room=lambda expand: 1,
    )
    assert all(expand.least == min(allowed, len(expand.nodes)) for expand in asked)
    assert answer.narrowest_width == (None if allowed == 8 else allowed)


def test_without_a_bound_nothing_differs():
    for seed in range(4):
        table, changes = Table(seed), {"width": 4, "step_back": True}
        plain = drive(saffron_search(inputs(**changes)), table.logits, table.rewards)
        roomy = drive(saffron_search(inputs(**changes)), table.logits, table.rewards, room=lambda expand: 99)
        assert plain == Answer(**{**{n: getattr(roomy, n) for n in Answer.__slots__}, "node": plain.node})
        assert (plain.narrowed, plain.narrowest_width) == (0, None)


def test_what_was_given_up_is_a_road_to_go_back_to():
    """Of two beams that are not safe yet, the one that there was room for becomes worse; the other would not have."""

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        return [1.0] * 5 if not prefix else SAFE if prefix[0] == 1 else BAD

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return chances(t0=0.6, t1=0.4) if not prefix else chances(t2=1.0) if len(prefix) < 5 else chances(t4=1.0)

    for step_back, first in ((True, 1), (False, 0)):
        searching = inputs(recorder=Recorder(), width=2, step_back=step_back)
        answer = drive(saffron_search(searching), logits, rewards, room=lambda expand: 1)
        assert answer.tokens == (first, 2, 2, 2, 2, END)
        assert (answer.steps_back, answer.narrowed, answer.narrowest_width) == (step_back, 1, 1)


def test_the_trace_tells_of_it():
    table, recorder = Table(3), Recorder()
    searching = inputs(recorder=recorder)
    answer = drive(saffron_search(searching), table.logits, table.rewards, room=lambda expand: 3)
    trace = recorder.trace(answer.tokens, answer.finish_reason, None, searching.settings)
    assert trace.totals["narrowed"] == answer.narrowed > 1
    # a step scores what the one before kept
    assert [step.kept for step in trace.steps[:-1]] == [step.live for step in trace.steps[1:]]
    given_up = sum(step.given_up for step in trace.steps)
    # and what led nowhere but there
    assert 0 < given_up <= sum(node.fate == "room" for node in trace.nodes)


@pytest.mark.parametrize("room", [1, 2])
def test_a_last_look_may_take_several_requests(room):
    def searched(looks, **more):
        return drive(
            saffron_search(verifying(width=4, top_p=1.0)),
            sentences,
            trusting,
            lambda expand: looks.append(len(expand.prm_nodes)),
            prm=of_first,
            **more,
        )

    at_once, looks = list[int](), list[int]()
    whole = searched(at_once)
    parts = searched(looks, room=lambda expand: room if expand.prm_nodes else 99)
    assert (parts.tokens, parts.verified, parts.overruled) == (whole.tokens, whole.verified, whole.overruled)
    # a look is no reason to give up a beam
    assert parts.narrowed == 0
    assert max(at_once) > room
    assert sum(count > 0 for count in looks) > sum(count > 0 for count in at_once)


def test_of_n_answers_the_later_ones_wait():
    table, rng, judged, scored = Table(4), Random(4), list[tuple[int, ...]](), list[int]()

    def room(expand: Expand) -> int:
        scored.append(rng.choice([1, 2]))
        return scored[-1]

    def reward(prefix: tuple[int, ...]) -> float:
        judged.append(prefix)
        return table.reward(prefix)

    searching = inputs(search="best_of_n", width=6, seed=1, max_tokens=5)
    answer = drive(best_of_n_search(searching), table.logits, prm=reward, room=room)
    assert len(judged) == 6
    assert all(len(prefix) == 5 for prefix in judged)
    assert answer.reward == pytest.approx(max(map(table.reward, judged)))
    # none was given up
    assert (answer.narrowed, answer.narrowest_width, answer.width) == (0, None, 6)


@pytest.mark.parametrize(("room", "judged"), [(1, [4]), (99, [2, 2, 2, 2])])
def test_what_had_to_wait_when_the_budget_ran_out_is_not_compared(room, judged):
    """The judge likes the shortest best: without a bound, all are cut at the same length."""
    budget, lengths = BudgetMeter(ComputeBudget(max_tflops=7.5), row_cost=lambda length: 1.0), list[int]()

    def reward(prefix: tuple[int, ...]) -> float:
        lengths.append(len(prefix))
        return -float(len(prefix))

    searching = inputs(search="best_of_n", width=4, seed=1, max_tokens=5, budget=budget)
    search = booked(best_of_n_search(searching), budget)
    answer = drive(search, Table(4).logits, prm=reward, room=lambda expand: room)
    assert lengths == judged
    assert len(answer.tokens) == judged[0]


@pytest.mark.parametrize(("search", "start"), [("rebase", rebase_search), ("deal", deal_search)])
def test_the_baselines_give_up_what_they_like_least(search, start):
    table = Table(5)
    settings = {"search": search, "width": 6, "seed": 1, "max_tokens": 6, "lookahead": 2 * (search == "deal")}
    answer = drive(start(inputs(**settings)), table.logits, prm=table.reward, room=lambda expand: 2)
    assert answer.narrowed > 0
    assert answer.narrowest_width == 2
    assert len(answer.tokens) == 6
    assert answer.reward == pytest.approx(table.reward(answer.tokens))


def test_rebase_keeps_the_safest():
    table, left = Table(6), list[tuple[float, float]]()

    def room(expand: Expand) -> int:
        if len(expand.nodes) > 1:
            kept, lost = expand.nodes[:1], expand.nodes[1:]
            left.append((min(table.reward(response(n)) for n in kept), max(table.reward(response(n)) for n in lost)))
        return 1

    drive(rebase_search(inputs(search="rebase", width=6, seed=1)), table.logits, prm=table.reward, room=room)
    assert left
    assert all(kept >= lost for kept, lost in left)
