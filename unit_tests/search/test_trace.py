"""What a recorded search says of itself is what it did, and it does nothing else for being recorded."""

import json
import random

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.errors import SettingsError
from langchain_saffron.search import SearchInputs
from langchain_saffron.search.recorder import Recorder
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.search.trace import Trace
from unit_tests.search.test_step_back import END, forks, hidden_road
from unit_tests.tables import chances, drive, rules
from unit_tests.tiny_models import PROMPTS, random_model, random_reward_model, tiny_tokenizer

DROPPED = {"rank", "grammar", "final", "left", "overruled", "unseen", "refused"}


def recorded(logits, rewards, most=50_000, **changes):
    """An answer, its trace and the live beams after every step; the answer without any of it is the same."""
    outer = {name: changes.pop(name) for name in ("seen", "refusing") if name in changes}
    values = {"top_p": 1.0, "max_tokens": 8, "safety_threshold": 2.0, "width": 1, **changes}
    settings = SearchSettings(**values)
    recorder, beams = Recorder(most), []
    inputs = SearchInputs(settings, end_tokens=(END,), recorder=recorder, trace=beams, **outer)
    answer = drive(saffron_search(inputs), logits, rewards)
    plain = drive(saffron_search(SearchInputs(settings, end_tokens=(END,), **outer)), logits, rewards)
    assert {name: getattr(answer, name) for name in answer.__slots__ if name != "node"} == {
        name: getattr(plain, name) for name in plain.__slots__ if name != "node"
    }
    trace = recorder.trace(answer.tokens, answer.finish_reason, answer.refusal_at, settings)
    check(trace)
    return answer, trace, beams


def check(trace: Trace) -> None:
    """Every node says why it is gone, and nothing below a dropped one stands."""
    json.dumps(trace.to_dict(), allow_nan=False)
    for node in trace.nodes[1:]:
        assert node.parent < node.id
        assert (node.fate in DROPPED) == (node.gone is not None)
        above = trace.nodes[node.parent]
        assert node.gone is not None or above.gone is None
    assert [trace.nodes[i].gone for i in trace.answer] == [None] * len(trace.answer)


def test_a_step_back_and_why():
    answer, trace, _ = recorded(forks, hidden_road, step_back=True)
    assert trace.tokens(trace.answer[-1]) == list(answer.tokens)
    by_road = {tuple(trace.tokens(node.id)): node for node in trace.nodes}
    # the first choice is left with all that is below it, one step after it was taken
    assert (by_road[0,].fate, by_road[0,].gone) == ("left", 1)
    assert (by_road[0, 0].fate, by_road[0, 2].fate) == ("left", "rank")
    assert (by_road[1,].fate, by_road[1,].reopened) == ("taken", 1)
    assert (by_road[2,].fate, by_road[2,].gone) == ("rank", 0)
    assert by_road[answer.tokens].fate == "ended"
    assert [step.stepped_back for step in trace.steps[:3]] == [0, 1, 0]
    assert [step.length for step in trace.steps[:4]] == [0, 1, 1, 2]
    (change,) = trace.interventions()
    assert (change.position, change.token, change.instead_of, change.fate) == (0, 1, 0, "left")
    assert change.gained == pytest.approx(-0.5)
    assert change.line() == "position 0: 1 instead of 0, p 0.2 not 0.5 reward -0.50 (-0.50) [left]"


def random_world(seed: int):
    def numbers(prefix: tuple[int, ...], salt: str) -> random.Random:
        return random.Random(f"{seed} {salt} {prefix}")

    def logits(prefix: tuple[int, ...]) -> list[float]:
        source = numbers(prefix, "policy")
        return [source.gauss(0, 2) for _ in range(5)]

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        source = numbers(prefix, "reward")
        return [source.gauss(0, 3) for _ in range(5)]

    return logits, rewards


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"step_back": True},
        {"step_back": True, "adaptive": True, "commit_lag": 2},
        {"commit_lag": 1, "refusal_threshold": -1.0},
        {"ranking": "paper", "step_back": True},
        {"temperature": 1.0, "seed": 1, "top_p": 0.8},
    ],
)
def test_beams_and_totals_are_those_of_the_search(changes):
    for seed in range(8):
        width = 1 + seed % 4
        answer, trace, beams = recorded(*random_world(seed), width=width, **changes)
        for step, live in enumerate(beams[:-1]):
            # those that disagreed with what became final at the step's end are noted as that
            dropped = [trace.tokens(node.id) for node in trace.nodes if (node.fate, node.gone) == ("final", step)]
            assert sorted(trace.scored(step + 1)) == sorted(tokens for tokens in live if tokens not in dropped)
        totals = trace.totals
        for name in ("width", "unseen_fallbacks", "steps_back", "reopened", "highest_risk"):
            assert totals[name] == getattr(answer, name)
        assert [step.live for step in trace.steps[1:]] == [step.kept for step in trace.steps[:-1]]
        assert sum(node.fate == "taken" or node.fate == "ended" for node in trace.nodes[1:]) >= len(answer.tokens) - 1


def test_what_is_masked_and_what_is_refused():
    seen = rules().end_tokens.new_tensor([1, 0, 1, 1, 1]).bool()

    def logits(prefix):
        return chances(t4=1.0) if len(prefix) == 2 else chances(t0=0.2, t1=0.5, t2=0.2, t3=0.1)

    def rewards(prefix):
        return [3.0, 9.0, -4.0, 3.0, 3.0]

    _, trace, _ = recorded(logits, rewards, seen=seen, refusal_threshold=0.0, mask="strict")
    first = {node.token: node for node in trace.nodes if node.parent == 0}
    assert {token: node.fate for token, node in first.items()} == {0: "taken", 1: "unseen", 2: "refused", 3: "rank"}
    # what is predicted for an unseen token means nothing
    assert first[1].reward is None
    assert [change.fate for change in trace.interventions()] == ["unseen", "unseen"]
    assert "reward" not in trace.interventions()[0].line()


def test_a_refusal_in_own_words_is_part_of_it():
    def rewards(prefix):
        return [5.0, 5.0, 5.0, 5.0, 5.0] if prefix and prefix[0] == 3 else [-9.0, -9.0, -9.0, -9.0, -9.0]

    def logits(prefix):
        return chances(t4=1.0) if len(prefix) > 2 else chances(t0=0.6, t1=0.2, t2=0.1, t3=0.1)

    answer, trace, _ = recorded(logits, rewards, refusal_threshold=-1.0, refusing=((3, 2), (3, 2)))
    assert (answer.finish_reason, answer.tokens[:2]) == ("refusal", (3, 2))
    assert trace.refusal_at == 0
    assert [step.refusing for step in trace.steps] == [False] + [True] * (len(trace.steps) - 1)
    assert trace.totals["policy_calls"] == sum(step.live for step in trace.steps)
    assert trace.tokens(trace.answer[-1]) == list(answer.tokens)


def test_it_says_that_it_was_cut():
    answer, whole, _ = recorded(*random_world(1), width=4)
    _, trace, _ = recorded(*random_world(1), width=4, most=9)
    assert (whole.is_cut, trace.is_cut, len(trace.nodes)) == (False, True, 9)
    assert trace.steps == whole.steps
    assert trace.nodes[:4] != ()
    assert whole.tokens(whole.answer[-1]) == list(answer.tokens)


@pytest.fixture(scope="module")
def engine():
    made = SaffronEngine(random_model("llama"), tiny_tokenizer(), random_reward_model())
    yield made
    made.close()


def test_an_engine_records_and_answers_the_same(engine: SaffronEngine):
    settings = SearchSettings(width=3, max_tokens=10, min_tokens=6, step_back=True, top_p=0.6, mask="off")
    plain = engine.generate(PROMPTS[0], settings=settings, record_beams=True)
    result = engine.generate(PROMPTS[0], settings=settings, record_beams=True, record_trace=True)
    assert plain.trace is None
    assert (result.token_ids, result.beams) == (plain.token_ids, plain.beams)
    trace = result.trace
    check(trace)
    assert trace.tokens(trace.answer[-1]) == result.token_ids
    for name, value in trace.totals.items():
        assert result.stats[name] == value
    texts = trace.texts(engine.tokenizer)
    assert "".join(texts[i] for i in trace.answer) == engine.tokenizer.decode(result.token_ids)
    again = engine.submit(PROMPTS[0], settings=settings, record_trace=True).result().trace
    assert [(node.parent, node.token, node.fate, node.gone) for node in again.nodes] == [
        (node.parent, node.token, node.fate, node.gone) for node in trace.nodes
    ]


def test_recording_is_booked_to_nobody(engine: SaffronEngine):
    settings = SearchSettings(width=3, max_tokens=10, min_tokens=6, top_p=0.6, mask="off")
    engine.generate(PROMPTS[0], settings=settings)
    plain, recorded = (engine.generate(PROMPTS[0], settings=settings, record_trace=asked) for asked in (False, True))
    assert recorded.stats.tflops == plain.stats.tflops


def test_a_search_without_a_tree_cannot_be_recorded(engine: SaffronEngine):
    with pytest.raises(SettingsError, match="record_trace: search='greedy' has no tree"):
        engine.generate(PROMPTS[0], settings=SearchSettings(search="greedy"), record_trace=True)
