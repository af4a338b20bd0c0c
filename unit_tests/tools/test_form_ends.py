"""Calls of every form come to an end in time, whatever a policy would write."""

import json
from random import Random

import pytest

from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.search.constraint import leaves_room, permitted
from langchain_saffron.tools.validation import misfit
from unit_tests.builders import byte_level_tokenizer
from unit_tests.call_templates import FAMILIES, MARKERS
from unit_tests.tool_templates import LLAMA31, QWEN25
from unit_tests.tools.test_forms import CASES, IDS, TOOLS

TEMPLATES = {**FAMILIES, "hermes": QWEN25, "llama": LLAMA31}
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


def walk(state, ends, limit, chance):
    """Tokens at random, within what a search with so many tokens allows."""
    written = []
    while len(written) < limit and not state.done:
        left = limit - len(written)
        allowed = permitted([state], ends, True, left)[0].nonzero().flatten().tolist()
        chance.shuffle(allowed)
        for token in allowed:
            if token in ends:
                return written, state
            child = state.advance(token)
            if leaves_room(state, child, left - 1, ends):
                break
        else:
            # as the search does: it closes, or ends what is whole
            end = state.shortest()
            assert end is not None
            if not end:
                return written, state
            token, child = end[0], state.advance(end[0])
        written.append(token)
        state = child
    return written, state


def read(form, tokenizer, written, cut):
    return form.parse(tokenizer.decode(written), cut, TOOLS)


@pytest.mark.slow
@pytest.mark.parametrize("markers", [(), MARKERS], ids=["text", "tokens"])
@pytest.mark.parametrize("family", TEMPLATES)
def test_a_call_is_whole_whenever_the_shortest_one_fits(family, markers):
    tokenizer = byte_level_tokenizer(chat_template=TEMPLATES[family], extra_tokens=markers)
    form = PromptRenderer(tokenizer).tool_format
    ends = [tokenizer.eos_token_id]
    compiler = GrammarCompiler(tokenizer, len(tokenizer), ends)
    whole_call = ""
    for choice in ("weather", "any", "auto"):
        root = compiler.compile(form.grammar(TOOLS, choice, True))
        shortest = root.shortest()
        assert shortest is not None
        whole_call = tokenizer.decode(shortest) or whole_call
        for limit in {len(shortest), len(shortest) + 1, len(shortest) + 7, 64}:
            if limit < len(shortest):
                continue
            for seed in range(2):
                written, state = walk(root, ends, limit, Random(seed))
                answer = read(form, tokenizer, written, None if len(written) < limit else "cut")
                text = tokenizer.decode(written)
                # under "auto" an only call may be begun that does not fit: saying nothing would be whole, but no answer
                if choice == "auto" and not state.accepting:
                    assert len(written) == limit, text
                    assert whole_call.strip().startswith(answer.content.strip()), text
                    assert [call.error is None for call in answer.calls] in ([], [False]), text
                    continue
                assert state.accepting, text
                assert choice == "auto" or answer.calls, text
                for call in answer.calls:
                    assert call.error is None, (call, text)
                    assert misfit(json.loads(call.args), SCHEMAS[call.name]) is None


@pytest.mark.slow
@pytest.mark.parametrize("markers", [(), MARKERS], ids=["text", "tokens"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_place_of_a_call_has_an_end_that_is_found(family, markers):
    tokenizer = byte_level_tokenizer(chat_template=FAMILIES[family], extra_tokens=markers)
    form = PromptRenderer(tokenizer).tool_format
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    for choice in ("any", "auto"):
        root = compiler.compile(form.grammar(TOOLS, choice, True))
        for calls in CASES if form.form.between is not None else CASES[:4]:
            text = form.form.write([(*call, i) for call, i in zip(calls, IDS, strict=False)])
            state, written = root, []
            for token in [*tokenizer.encode(text, add_special_tokens=False), None]:
                end = state.shortest()
                assert end is not None, tokenizer.decode(written)
                whole = [*written, *end]
                assert choice == "auto" or all(one.error is None for one in read(form, tokenizer, whole, None).calls)
                if token is not None:
                    state = state.advance(token)
                    written.append(token)
            assert end == ()
