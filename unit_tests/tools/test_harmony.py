"""Calls of Harmony as its models write them, which is not only as the template does; and documents beside them."""

import pytest
from tokenizers import AddedToken

from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.after_thought import AfterThought
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.grammar.thought_tokens import ThoughtTokens
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.templates.thought_form import KNOWN_FORMS
from langchain_saffron.templates.thought_markers import ThoughtMarkers
from langchain_saffron.tools import Answer, detect_tool_format, tool_request
from unit_tests.builders import byte_level_tokenizer
from unit_tests.call_templates import FAMILIES
from unit_tests.grammars import accepts

pytest.importorskip("llguidance")
MARKERS = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>")
PLACE = {"type": "object", "properties": {"place": {"type": "string", "maxLength": 9}}, "required": ["place"]}
TOOLS = tool_request([{"name": "weather", "description": "W.", "parameters": PLACE}]).tools
HEADERS = (
    " to=functions.weather<|channel|>commentary json<|message|>",
    " to=functions.weather<|channel|>commentary <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.weather<|message|>",
)
ARGUMENTS = '{"place": "x"}'
FORM = detect_tool_format(FAMILIES["harmony"], None)


@pytest.fixture(scope="module", params=[False, True], ids=["text", "tokens"])
def tokenizer(request):
    added = tuple(AddedToken(one, normalized=False, special=True) for one in MARKERS if request.param)
    return byte_level_tokenizer(600, FAMILIES["harmony"], extra_tokens=added)


@pytest.mark.parametrize("choice", ["auto", "any", "weather"])
def test_the_headers_of_calls(tokenizer, choice):
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    root = compiler.compile(FORM.grammar(TOOLS, choice, True))
    accepted = [accepts(tokenizer, root, header + ARGUMENTS) for header in HEADERS]
    # a call that has to come is written as the template writes it
    assert accepted == ([True] * 4 if choice == "auto" else [True, False, False, False])
    assert not accepts(tokenizer, root, HEADERS[0].replace("json", "xml") + ARGUMENTS)


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("header", HEADERS)
def test_calls_are_read_without_their_headers(header, size):
    for said in ("", "Let me see."):
        text, parser = said + header + ARGUMENTS, FORM.parser(tools=TOOLS)
        pieces = [text[place : place + size] for place in range(0, len(text), size)]
        answer = Answer.of([*(event for piece in pieces for event in parser.feed(piece)), *parser.finish()])
        assert answer.content == said
        assert [(call.name, call.args, call.error) for call in answer.calls] == [("weather", ARGUMENTS, None)]


def test_a_document_beside_calls_stands_in_the_final_channel(tokenizer):
    form = next(one for one in KNOWN_FORMS if one.lead.startswith("<|channel|>final"))
    markers = ThoughtMarkers.of(form, tokenizer, safe_encoder(tokenizer))
    ends = [tokenizer.eos_token_id]
    compiler = GrammarCompiler(tokenizer, len(tokenizer), ends)
    tokens = ThoughtTokens(markers, compiler.written(), ends)
    document = Grammar.json_schema({"enum": [{"a": 1}]})
    both = Grammar.either(FORM.grammar(TOOLS, "any", True), document).alternatives()
    assert both == (FORM.grammar(TOOLS, "any", True), document)
    assert document.alternatives() is None
    calls, root = map(compiler.compile, both)
    for place, thought in (("before", form.opening + "Hm." + form.closing), ("inside", "Hm." + form.closing)):
        empty = AfterThought.start(tokens, root, place, both[1].is_document, True, calls)
        starts = (thought, "") if place == "before" else (thought,)
        for start in starts:
            assert accepts(tokenizer, empty, start + '<|channel|>final<|message|>{"a": 1}')
            assert accepts(tokenizer, empty, start + HEADERS[0] + ARGUMENTS)
            assert not accepts(tokenizer, empty, start + '{"a": 1}')
            assert not accepts(tokenizer, empty, start + "<|channel|>final<|message|>" + ARGUMENTS)
        assert accepts(tokenizer, empty, tokenizer.decode(empty.shortest()))
    assert empty.accepts(HEADERS[0] + ARGUMENTS)
    assert empty.accepts('{"a": 1}')
