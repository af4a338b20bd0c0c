"""Grammars that begin behind a thought: whatever a model writes under them, what it says follows the grammar."""

import json
import random

import pytest
import torch

from langchain_saffron.engine.thought_stream import ThoughtStream
from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.after_thought import AfterThought
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.grammar.thought_tokens import ThoughtTokens
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.templates.thought_form import KNOWN_FORMS, ThoughtForm
from langchain_saffron.templates.thought_markers import ThoughtMarkers
from langchain_saffron.templates.thoughts import Thoughts
from unit_tests.thought_templates import CUT, thinking_tokenizer

pytest.importorskip("llguidance")
FORMS = {form.opening: form for form in KNOWN_FORMS}
# in tokens of its own, of letters only, and of messages
CASES = [FORMS["<think>"], ThoughtForm("<ponder>", "</ponder>"), FORMS["<|channel|>analysis<|message|>"]]
GRAMMAR = Grammar.json_schema({"enum": [{"a": 1}, {"a": 2}]})


@pytest.fixture(scope="module")
def tokenizer():
    return thinking_tokenizer(CUT)


def start(tokenizer, form, place, grammar=GRAMMAR):
    markers = ThoughtMarkers.of(form, tokenizer, safe_encoder(tokenizer))
    ends = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    compiler = GrammarCompiler(tokenizer, len(tokenizer), ends)
    tokens = ThoughtTokens(markers, compiler.written(), ends)
    root = compiler.compile(grammar)
    return AfterThought.start(tokens, root, place, grammar.is_document, bool(form.lead)), markers, ends


def read(tokenizer, markers, place, ids):
    stream = ThoughtStream(tokenizer, Thoughts(markers, place))
    stream.pieces(ids)
    stream.last_pieces()
    return stream.text


@pytest.mark.parametrize("form", CASES, ids=["token", "letters", "messages"])
@pytest.mark.parametrize("place", ["before", "inside"])
def test_random_answers_say_whole_documents(tokenizer, form, place):
    empty, markers, ends = start(tokenizer, form, place)
    rng = random.Random(0)
    shortcuts = [
        tokenizer(text, add_special_tokens=False).input_ids
        for text in (form.opening, form.closing, form.closing + "\n\n", form.lead)
    ]
    finished = thoughts = 0
    for _ in range(8):
        state, ids, run = empty, [], []
        while len(ids) < 60:
            allowed = state.allowed([state])[0]
            assert bool(allowed.any())
            if bool(allowed[ends[0]]):
                assert state.accepting
                break
            run = run or (list(rng.choice(shortcuts)) if rng.random() < 0.2 else [])
            wanted = run.pop(0) if run else -1
            if wanted < 0 or not bool(allowed[wanted]):
                run, wanted = [], rng.choice(allowed.nonzero()[:, 0].tolist())
            state = state.advance(wanted)
            ids.append(wanted)
        if state.accepting:
            finished += 1
            thoughts += len(ids) > 12
            assert json.loads(read(tokenizer, markers, place, ids)) in ({"a": 1}, {"a": 2})
    assert finished > 1
    assert thoughts


@pytest.mark.parametrize("form", CASES, ids=["token", "letters", "messages"])
def test_several_states_are_told_together(tokenizer, form):
    empty, *_ = start(tokenizer, form, "before")
    thinking = empty
    for token in tokenizer(form.opening, add_special_tokens=False).input_ids:
        thinking = thinking.advance(token)
    lead = empty
    for token in tokenizer(form.lead + "{", add_special_tokens=False).input_ids:
        lead = lead.advance(token)
    states = [empty, thinking, lead]
    alone = torch.stack([state.allowed([state])[0] for state in states])
    assert torch.equal(empty.allowed(states), alone)
    assert not thinking.accepting
    assert not thinking.done


def test_no_turn_ends_within_a_thought(tokenizer):
    state, _, ends = start(tokenizer, FORMS["<think>"], "inside")
    assert not state.allowed([state])[0][ends].any()
    with pytest.raises(GrammarError):
        start(tokenizer, FORMS["<think>"], "before")[0].advance(tokenizer("x", add_special_tokens=False).input_ids[0])


def test_behind_a_thought_the_grammar_is_alone(tokenizer):
    assert not isinstance(start(tokenizer, FORMS["<think>"], "behind")[0], AfterThought)
    assert not isinstance(start(tokenizer, FORMS["<think>"], "said")[0], AfterThought)
    # the name of the channel is still to come
    assert isinstance(start(tokenizer, FORMS["<|channel|>analysis<|message|>"], "behind")[0], AfterThought)
