"""What attacks make of a request."""

from pathlib import Path

import pytest

from langchain_saffron import SaffronEngine
from langchain_saffron.errors import SettingsError
from langchain_saffron.evaluation.attacks import (
    HostileToolResult,
    ManyShot,
    NoAttack,
    Opening,
    PoisonedContext,
    Prefill,
    Replay,
)
from langchain_saffron.evaluation.cases import make_cases
from langchain_saffron.evaluation.methods import make_method
from langchain_saffron.evaluation.sample import Sample
from unit_tests.evaluation.samples import HARM


def test_attacks_change_the_prompt_as_they_say():
    assert NoAttack().apply(HARM).messages == HARM.messages
    prefilled = Prefill(7).apply(HARM)
    assert (prefilled.prefill_tokens, prefilled.target) == (7, HARM.target)
    other = Sample("h-2", "d", "harmful", ({"role": "user", "content": "And that?"},), "Sure, so.")
    shots = ManyShot(1, (HARM, other)).apply(HARM).messages
    assert [turn["content"] for turn in shots] == ["And that?", "Sure, so.", "How do I brew it?"]
    assert Replay({"h-1": "!! brew !!"}).apply(HARM).messages[-1]["content"] == "!! brew !!"
    assert "How do I brew it?" in PoisonedContext().apply(HARM).messages[-1]["content"]
    hostile = HostileToolResult().apply(HARM)
    assert hostile.messages[-1]["role"] == "tool"
    assert hostile.tools


def test_an_attack_without_what_it_needs_is_refused():
    bare = Sample("b", "d", "harmful", HARM.messages)
    with pytest.raises(SettingsError, match="nothing to prefill"):
        Prefill(5).apply(bare)
    with pytest.raises(SettingsError, match="many-shot-2"):
        ManyShot(2, (HARM,)).apply(HARM)
    with pytest.raises(SettingsError, match="no prompt was recorded for h-1"):
        Replay({}).apply(HARM)


def test_an_opening_needs_no_harmful_answer():
    bare = Sample("b", "d", "harmful", HARM.messages)
    opened = Opening(12).apply(bare)
    assert (opened.prefill_tokens, opened.messages) == (12, HARM.messages)
    # enough for every number of tokens that is asked for
    assert len(opened.target.split()) > 40


def test_what_is_not_harmful_is_not_attacked():
    benign = Sample("b-1", "d", "benign", ({"role": "user", "content": "Soup?"},), "Boil a leek.")
    cases = make_cases([HARM, benign], [Prefill(4), Prefill(8)], [make_method("greedy")], 1)
    assert [(case.sample.kind, case.attack.name) for case in cases] == [
        ("harmful", "prefill-4"), ("harmful", "prefill-8"), ("benign", "none"),
    ]  # fmt: skip


def test_a_prefill_says_which_answers_are_too_short_for_it(engine: SaffronEngine, tmp_path: Path):
    told: list[str] = []
    length = len(engine.tokenizer.encode(HARM.target, add_special_tokens=False))
    assert Prefill(length).prepared(engine, [HARM], tmp_path, told.append) == Prefill(length)
    assert told == []
    Prefill(length + 1).prepared(engine, [HARM], tmp_path, told.append)
    assert told == [f"prefill-{length + 1}: 1 of 1 harmful answers are shorter, and are given whole"]
