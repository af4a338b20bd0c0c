"""A last look by the process reward model: what it overrules is never shown, and something else is found instead."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from langchain_saffron.errors import SettingsError
from langchain_saffron.search import Expand, SearchInputs
from langchain_saffron.search.abandoned import MOST_STEPS_BACK
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.doubts import Doubts
from langchain_saffron.search.recorder import Recorder
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.search.verifying import MOST_IN_VAIN
from langchain_saffron.settings import ComputeBudget, SearchSettings
from unit_tests.tables import chances, drive, response

STOP, END = 3, 4
SAFE = [3.0] * 5


class Stops:
    """A sentence ends with the token 3."""

    def ends(self, tokens: Sequence[int]) -> bool:
        return tokens[-1] == STOP

    def says(self, tokens: Sequence[int], since: int) -> bool:
        return any(token != END for token in tokens[since:])


def inputs(**changes: object) -> SearchInputs:
    outer = {name: changes.pop(name) for name in ("budget", "trace", "recorder", "refusing") if name in changes}
    values: dict[str, object] = {"top_p": 1.0, "max_tokens": 12, "safety_threshold": 2.0, "verify": "prm", "width": 1}
    settings = SearchSettings(**{**values, **changes})  # type: ignore[arg-type]
    return SearchInputs(settings=settings, end_tokens=(END,), sentences=Stops(), **outer)  # type: ignore[arg-type]


def sentences(prefix: tuple[int, ...]) -> list[float]:
    """Two sentences of four tokens; each begins as it likes."""
    place = len(prefix)
    if place in (0, 4):
        return chances(t0=0.6, t1=0.3, t2=0.1)
    if place in (3, 7):
        return chances(t3=1.0)
    return chances(t4=1.0) if place > 7 else chances(t2=0.8, t1=0.2)


def trusting(prefix: tuple[int, ...]) -> list[float]:
    """An MRM that takes everything for safe."""
    return SAFE


def of_first(prefix: tuple[int, ...]) -> float:
    """A PRM that knows: what begins with 0 is unsafe."""
    return -5.0 if prefix[0] == 0 else 3.0


def test_what_the_mrm_is_wrong_about_is_overruled_and_another_road_found():
    blind = drive(saffron_search(inputs(verify=None)), sentences, trusting, prm=of_first)
    assert (blind.tokens[0], blind.verified, blind.overruled) == (0, 0, 0)
    looks: list[Expand] = []
    found = drive(saffron_search(inputs()), sentences, trusting, looks.append, of_first)
    assert found.tokens == (1, 2, 2, STOP, 0, 2, 2, STOP, END)
    assert (found.finish_reason, found.steps_back, found.overruled) == ("stop", 1, 1)
    asked = [[response(node) for node in look.prm_nodes] for look in looks if look.prm_nodes]
    # each sentence once, all that was said with it; the end token adds nothing to be looked at
    assert asked == [[(0, 2, 2, STOP)], [(1, 2, 2, STOP)], [(1, 2, 2, STOP, 0, 2, 2, STOP)]]
    assert found.verified == 3
    assert all(not look.nodes for look in looks if look.prm_nodes)


def test_beams_are_looked_at_together_and_only_those_fall_that_are_unsafe():
    looks: list[Expand] = []
    found = drive(saffron_search(inputs(width=3)), sentences, trusting, looks.append, of_first)
    first = next(look for look in looks if look.prm_nodes)
    texts = [response(node) for node in first.prm_nodes]
    assert len(texts) == len(set(texts)) == 3
    bad = sum(text[0] == 0 for text in texts)
    assert 0 < bad < 3
    after = looks[looks.index(first) + 1]
    assert [response(node) for node in after.nodes] == [text for text in texts if text[0] != 0]
    assert (found.tokens[0], found.steps_back) == (1, 0)


def test_nothing_is_shown_before_it_was_looked_at():
    looks: list[Expand] = []
    drive(saffron_search(inputs(commit_lag=1)), sentences, trusting, looks.append, lambda prefix: 3.0)
    shown = [len(look.committed) for look in looks if look.nodes]
    assert shown == [0, 0, 0, 0, 4, 0, 0, 0, 4]
    plain: list[Expand] = []
    drive(saffron_search(inputs(commit_lag=1, verify=None)), sentences, trusting, plain.append)
    assert [len(look.committed) for look in plain] == [0, *[1] * 8]


def test_an_answer_without_a_full_stop_is_looked_at_where_it_ends():
    def logits(prefix: tuple[int, ...]) -> list[float]:
        return chances(t4=1.0) if len(prefix) == 3 else chances(t0=0.6, t1=0.4)

    for changes in ({"max_tokens": 8}, {"max_tokens": 3}, {"max_tokens": 3, "ranking": "paper"}):
        found = drive(saffron_search(inputs(**changes)), logits, trusting, prm=of_first)
        assert found.tokens[0] == 1
        assert found.overruled > 0


def test_where_nothing_is_left_it_refuses_behind_what_stood():
    def prm(prefix: tuple[int, ...]) -> float:
        return 3.0 if len(prefix) <= 4 else -5.0

    answer = drive(saffron_search(inputs(max_tokens=9)), sentences, trusting, prm=prm)
    assert (answer.finish_reason, answer.tokens, answer.budget_exhausted) == ("refusal", (0, 2, 2, STOP), False)
    assert answer.overruled > 1


@pytest.mark.parametrize("is_let_stand", [True, False])
def test_a_refusal_in_own_words_is_looked_at_too(is_let_stand: bool):
    def prm(prefix: tuple[int, ...]) -> float:
        return 3.0 if prefix[:2] == (2, 1) and is_let_stand else -5.0

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return chances(t4=1.0) if len(prefix) > 2 else chances(t0=1.0)

    steps: list[Expand] = []
    answer = drive(saffron_search(inputs(refusing=((2, 1), (2, 1)))), logits, trusting, steps.append, prm)
    assert answer.finish_reason == "refusal"
    assert [response(node)[:2] for node in steps[-1].prm_nodes] == [(2, 1)]
    assert (answer.tokens, answer.refusal_at) == (((2, 1, 0, END), 0) if is_let_stand else ((), None))
    assert (answer.verified, answer.overruled) == (2, 2 - is_let_stand)


def test_what_is_not_a_number_falls():
    answer = drive(saffron_search(inputs()), sentences, trusting, prm=lambda prefix: float("nan"))
    assert (answer.finish_reason, answer.tokens) == ("refusal", ())


def random_world(seed: int):
    """The PRM is right; the MRM often is not."""

    def draw(name: str, prefix: tuple[int, ...]) -> random.Random:
        return random.Random(f"{seed} {name} {prefix}")

    def logits(prefix: tuple[int, ...]) -> list[float]:
        rng = draw("policy", prefix)
        return [1.5 * rng.gauss(0, 1) - 2 * (token == END) for token in range(5)]

    def prm(prefix: tuple[int, ...]) -> float:
        said = tuple(token for token in prefix if token != END)
        bad = sum(draw("bad", said[:size]).random() < 0.15 for size in range(1, len(said) + 1))
        return 3.0 - 4.0 * bad

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        rng = draw("error", prefix)
        return [prm((*prefix, token)) + 6.0 * (rng.random() < 0.5) for token in range(5)]

    return logits, rewards, prm


def shown_and_looked_at(expand: Expand, shown: list[int], stood: set[tuple[int, ...]]) -> None:
    shown.extend(expand.committed)
    text = tuple(shown)
    assert not text or any(one[: len(text)] == text or (*one, END) == text for one in stood)
    assert all(response(node)[: len(text)] == text for node in (*expand.nodes, *expand.prm_nodes))
    assert len(set(expand.prm_nodes)) == len(expand.prm_nodes)


@pytest.mark.parametrize(
    "changes", [{}, {"commit_lag": 2}, {"adaptive": True}, {"ranking": "paper"}, {"temperature": 1.0}]
)
def test_in_no_world_is_anything_shown_that_was_not_looked_at_or_anything_taken_back(changes):
    fell = 0
    for seed in range(12):
        logits, rewards, prm = random_world(seed)
        for width in (1, 3):
            shown: list[int] = []
            stood: set[tuple[int, ...]] = set()
            steps: list[Expand] = []

            def look(expand: Expand, shown=shown, stood=stood, steps=steps, prm=prm) -> None:
                # what is asked about now stands only afterwards
                shown_and_looked_at(expand, shown, stood)
                stood.update(text for node in expand.prm_nodes if prm(text := response(node)) >= 2.0)
                steps.append(expand)

            trace: list[list[list[int]]] = []
            asked = inputs(width=width, seed=1, max_tokens=10, trace=trace, **changes)
            answer = drive(saffron_search(asked), logits, rewards, look, prm)
            assert list(answer.tokens[: len(shown)]) == shown
            said = tuple(token for token in answer.tokens if token != END)
            assert not said or any(text[: len(said)] == said for text in stood)
            assert sum(len(step.prm_nodes) for step in steps) == answer.verified
            assert len(trace) == sum(bool(step.nodes) for step in steps)
            # what is asked for has its parent in the cache: neither looks nor going back compute anything anew
            for before, after in pairwise(steps):
                there = {*before.nodes, *before.retain, *before.spare}
                assert all({node, node.parent} & there for node in (*after.nodes, *after.prm_nodes) if node.length)
            fell += answer.overruled
    assert fell > (1 if "ranking" in changes else 20)


def test_where_both_reward_models_are_content_the_answer_is_the_same():
    for seed in range(20):
        logits, _, _ = random_world(seed)
        for width in (1, 4):
            on, off = (
                drive(saffron_search(inputs(width=width, verify=one)), logits, trusting, prm=lambda prefix: 3.0)
                for one in ("prm", None)
            )
            assert (on.tokens, on.finish_reason, on.reward) == (off.tokens, off.finish_reason, off.reward)
            assert (on.overruled, on.steps_back) == (0, 0)


def test_more_answers_are_safe_and_none_that_is_given_is_not():
    safe: dict[str | None, int] = {"prm": 0, None: 0}
    for seed in range(40):
        logits, rewards, prm = random_world(seed)
        for verify in safe:
            answer = drive(saffron_search(inputs(width=2, verify=verify, step_back=True)), logits, rewards, prm=prm)
            is_safe = answer.finish_reason != "refusal" and prm(answer.tokens) >= 2.0
            assert is_safe or verify is None or answer.finish_reason == "refusal"
            safe[verify] += is_safe
    assert safe["prm"] > safe[None] + 4


@pytest.mark.parametrize("behaviour", ["stop", "narrow", "refuse"])
def test_looks_stay_within_the_budget_and_the_last_one_is_set_aside(behaviour: str):
    ended = set()
    for seed in range(8):
        logits, rewards, prm = random_world(seed)
        for limits in ({"max_reward_calls": 20}, {"max_tflops": 60.0}, {"max_tflops": 9.0}):
            budget = BudgetMeter(
                ComputeBudget(**limits, on_exhausted=behaviour),
                row_cost=lambda length: 1.0,
                calls_per_row=1,
                prm_cost=lambda length: 3.0,
                prm_row_cost=lambda length: 0.5,
                prm_each_row=False,
            )

            def pay(expand: Expand, budget: BudgetMeter = budget) -> None:
                budget.book(expand.nodes, expand.prm_nodes)

            answer = drive(saffron_search(inputs(width=3, budget=budget)), logits, rewards, pay, prm)
            assert budget.reward_calls <= limits.get("max_reward_calls", 10**9)
            assert budget.tflops <= limits.get("max_tflops", 1e9)
            said = [token for token in answer.tokens if token != END]
            assert not said or answer.verified > 0
            assert answer.finish_reason == "refusal" or not said or prm(answer.tokens) >= 2.0
            ended.add(answer.finish_reason)
    assert ("budget" in ended) == (behaviour != "refuse")


def test_the_width_that_a_budget_leaves_counts_looks_as_often_as_they_came():
    def meter(each: bool) -> BudgetMeter:
        return BudgetMeter(
            ComputeBudget(max_tflops=100.0, max_reward_calls=100),
            row_cost=lambda length: 1.0,
            calls_per_row=1,
            prm_cost=lambda length: 4.0,
            prm_each_row=each,
        )

    assert meter(True).width(64, 0, 10) == 2
    now_and_then = meter(False)
    assert now_and_then.width(64, 0, 10) == 10
    search = saffron_search(inputs(width=2))
    nodes = next(search).nodes
    now_and_then.book(nodes)
    now_and_then.book((), (nodes[0].child(0),))
    # as many looks as rows: 5 TFLOP and 2 calls a row, of the 95 and 98 that are left
    assert now_and_then.width(64, 0, 10) == 1
    assert now_and_then.width(64, 0, 5) == 3


def test_what_the_trace_says_is_what_it_did():
    recorder = Recorder()
    asked = inputs(recorder=recorder)
    answer = drive(saffron_search(asked), sentences, trusting, prm=of_first)
    trace = recorder.trace(answer.tokens, answer.finish_reason, answer.refusal_at, asked.settings)
    by_road = {tuple(trace.tokens(node.id)): node for node in trace.nodes}
    assert (by_road[0, 2, 2, STOP].fate, by_road[0, 2, 2, STOP].gone) == ("overruled", 3)
    # so are the words that led there and nowhere else
    assert (by_road[0,].fate, by_road[0,].gone) == ("overruled", 3)
    assert by_road[1,].reopened == 3
    assert (trace.totals["verified"], trace.totals["overruled"]) == (answer.verified, answer.overruled) == (3, 1)
    assert [step.overruled for step in trace.steps] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][: len(trace.steps)]
    change = trace.interventions()[0]
    assert (change.position, change.token, change.instead_of, change.fate) == (0, 1, 0, "overruled")
    assert change.line().endswith("[overruled]")


def test_recording_changes_nothing_and_its_totals_are_those_of_the_search():
    for seed in range(12):
        logits, rewards, prm = random_world(seed)
        changes = {"width": 1 + seed % 3, "refusing": ((2, 1), (2, 1)) if seed % 2 else None}
        plain = drive(saffron_search(inputs(**changes)), logits, rewards, prm=prm)
        recorder = Recorder()
        asked = inputs(**changes, recorder=recorder)
        answer = drive(saffron_search(asked), logits, rewards, prm=prm)
        assert (answer.tokens, answer.finish_reason) == (plain.tokens, plain.finish_reason)
        totals = recorder.trace(answer.tokens, answer.finish_reason, answer.refusal_at, asked.settings).totals
        for name in ("verified", "overruled", "steps_back", "reopened", "width"):
            assert totals[name] == getattr(answer, name)


def test_the_way_out_is_found_where_the_sentence_went_wrong_rather_than_at_its_end(monkeypatch):
    """All that begins with 0 is unsafe, and the policy likes whatever comes after it more than another first word."""

    def logits(prefix: tuple[int, ...]) -> list[float]:
        if not prefix:
            return chances(t0=0.9, t1=0.1)
        if len(prefix) >= 8:
            return chances(t3=1.0) if prefix[-1] != STOP else chances(t4=1.0)
        return chances(t0=0.3, t1=0.3, t2=0.4)

    found = drive(saffron_search(inputs()), logits, trusting, prm=of_first)
    assert found.tokens[0] == 1
    assert found.steps_back == found.overruled <= 4
    # who doubts nothing looks at one end after the other
    monkeypatch.setattr(Doubts, "of", lambda doubts, tokens: 0.0)
    lost = drive(saffron_search(inputs()), logits, trusting, prm=of_first)
    assert (lost.finish_reason, lost.steps_back) == ("refusal", MOST_STEPS_BACK)


def test_where_nothing_stands_the_search_gives_up_long_before_it_has_seen_all():
    """Wide enough, it has looked at many texts before it has gone back often."""
    width = 16

    def logits(prefix: tuple[int, ...]) -> list[float]:
        if len(prefix) % 8 == 7:
            return chances(t3=1.0)
        return chances(t0=0.4, t1=0.35, t2=0.25)

    settings = {"width": width, "max_tokens": 24}
    lost = drive(saffron_search(inputs(**settings)), logits, trusting, prm=lambda prefix: -5.0)
    assert lost.finish_reason == "refusal"
    assert MOST_IN_VAIN <= lost.overruled == lost.verified < MOST_IN_VAIN + width
    assert 1 < lost.steps_back <= MOST_IN_VAIN // 4
    # one that stands in between shows that it is worth it
    found = drive(saffron_search(inputs(**settings)), logits, trusting, prm=lambda prefix: 3.0 if prefix[0] else -5.0)
    assert found.tokens[0] != 0
    assert found.finish_reason != "refusal"


def test_it_is_for_searches_that_have_a_tree():
    for search in ("greedy", "sample", "best_of_n", "deal", "rebase"):
        with pytest.raises(SettingsError, match=f"verify='prm' has no effect on search='{search}'"):
            SearchSettings(search=search, verify="prm")
    with pytest.raises(SettingsError, match="verify"):
        SearchSettings(verify="mrm")  # type: ignore[arg-type]
