import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk

from langchain_saffron.errors import SettingsError
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.tools import HERMES, LLAMA, Answer, CallPiece, Said, tool_request
from langchain_saffron.tools.base import ENDED, spoil
from langchain_saffron.tools.request import arguments_schema
from langchain_saffron.tools.validation import misfit
from unit_tests.builders import byte_level_tokenizer

CUT = "cut"
TOOLS = [
    {
        "name": "weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
                "near": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
            },
            "required": ["place"],
        },
    },
    {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
]
REQUEST = tool_request(TOOLS)


def read(form, pieces, cut=None, tools=REQUEST.tools):
    parser = form.parser(tools=tools)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.finish(cut)]


def joined(events):
    """Events without ids, neighbours of one kind as one."""
    made = []
    for event in events:
        last = made[-1] if made else None
        if isinstance(event, Said) and isinstance(last, Said):
            made[-1] = Said(last.text + event.text)
        elif isinstance(event, CallPiece) and isinstance(last, CallPiece) and event.index == last.index:
            assert event.id is None
            assert event.name is None
            made[-1] = CallPiece(last.index, last.args + event.args, None, last.name)
        else:
            made.append(CallPiece(event.index, event.args, None, event.name) if isinstance(event, CallPiece) else event)
    return made


def summary(form, text, cut=None, tools=REQUEST.tools):
    """What a text comes to: content, and calls as (name, arguments) or (name, written, error)."""
    answer = Answer.of(read(form, [text], cut, tools))
    calls = [
        (call.name, json.loads(call.args, strict=False)) if call.error is None else (call.name, call.args, call.error)
        for call in answer.calls
    ]
    return answer.content, calls


def hermes(name="weather", arguments='{"place": "Paris"}'):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def llama(name="weather", arguments='{"place": "Paris"}'):
    return f'{{"name": "{name}", "parameters": {arguments}}}'


PARIS = ("weather", {"place": "Paris"})


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        ("Hello <b>you</b>\n", "Hello <b>you</b>\n", []),
        ("  Hello", "  Hello", []),
        (hermes(), "", [PARIS]),
        (f"Let me see.\n{hermes()}", "Let me see.", [PARIS]),
        (f"Let me see. \n\n {hermes()}\n", "Let me see.", [PARIS]),
        (f"{hermes()}\n{hermes('now', '{}')}", "", [PARIS, ("now", {})]),
        (f"{hermes()}{hermes('now', '{}')}", "", [PARIS, ("now", {})]),
        (f"Before\n{hermes()}\nthen \n{hermes('now', '{}')}\n after \n", "Before\nthen\nafter", [PARIS, ("now", {})]),
        (f"{hermes()} after", "after", [PARIS]),
        (f"\n\n{hermes()}", "", [PARIS]),
        # other keys, other order, no arguments, blanks, no line breaks
        ('<tool_call>{"name":"weather","parameters":{"place":"Paris"}}</tool_call>', "", [PARIS]),
        ('<tool_call>\n{"arguments": {"place": "Paris"}, "name": "weather"}\n</tool_call>', "", [PARIS]),
        ('<tool_call>\n{"id": 7, "name": "weather", "arguments": {"place": "Paris"}}\n</tool_call>', "", [PARIS]),
        ('<tool_call>\n{"name": "weather", "arguments": {"place": "Paris"}, "id": 7}\n</tool_call>', "", [PARIS]),
        ('<tool_call> \n {\n "name" : "weather" ,"arguments" : { "place" : "Paris" }\n}\n\n</tool_call>', "", [PARIS]),
        ('<tool_call>{"name": "now"}</tool_call>', "", [("now", {})]),
        ('<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [("now", {})]),
        ('<tool_call>{"name": "now", "arguments": ""}</tool_call>', "", [("now", {})]),
        # arguments as a string
        (r'<tool_call>{"name": "weather", "arguments": "{\"place\": \"Paris\"}"}</tool_call>', "", [PARIS]),
        # braces, quotes, markers and other scripts inside strings
        (hermes(arguments=r'{"place": "}}{[\"]] \\"}'), "", [("weather", {"place": '}}{["]] \\'})]),
        (hermes(arguments='{"place": "<tool_call>"}'), "", [("weather", {"place": "<tool_call>"})]),
        (hermes(arguments='{"place": "</tool_call>"}'), "", [("weather", {"place": "</tool_call>"})]),
        (hermes(arguments='{"place": "Köln 😀 \\ud83d\\ude00"}'), "", [("weather", {"place": "Köln 😀 😀"})]),
        (hermes(arguments='{"place": "two\nlines"}'), "", [("weather", {"place": "two\nlines"})]),
        (hermes(arguments='{"a": [{"x": {}}, []], "b": 1e3}'), "", [("weather", {"a": [{"x": {}}, []], "b": 1e3})]),
        (hermes("nobody", "{}"), "", [("nobody", {})]),
        # no end marker
        (hermes().removesuffix("\n</tool_call>"), "", [PARIS]),
        (hermes().removesuffix("call>"), "", [PARIS]),
        (hermes().removesuffix("\n</tool_call>") + "\n" + hermes("now", "{}"), "", [PARIS, ("now", {})]),
        # what only looks like a marker
        ("a < b <tool <tool_", "a < b <tool <tool_", []),
        ("<tool_<tool_call>" + hermes()[11:], "<tool_", [PARIS]),
    ],
)  # fmt: skip
def test_hermes(text, content, calls):
    assert summary(HERMES, text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        ("Hello {you}\n", "Hello {you}\n", []),
        (" \n ", " \n ", []),
        (llama(), "", [PARIS]),
        (f"<|python_tag|>{llama()}", "", [PARIS]),
        (f" <|python_tag|> \n{llama()} \n", "", [PARIS]),
        (f"{llama()}; {llama('now', '{}')}", "", [PARIS, ("now", {})]),
        (f"{llama()}\n{llama('now', '{}')}", "", [PARIS, ("now", {})]),
        (f"{llama()} and so on", "and so on", [PARIS]),
        ('{"name": "weather", "arguments": {"place": "Paris"}}', "", [PARIS]),
        ('{"type": "function", "name": "weather", "parameters": {"place": "Paris"}}', "", [PARIS]),
        ('{"parameters": {"place": "Paris"}, "name": "weather"}', "", [PARIS]),
        (r'{"name": "weather", "parameters": "{\"place\": \"Paris\"}"}', "", [PARIS]),
        ('{"name": "now"}', "", [("now", {})]),
        # answers that are JSON, but no calls
        ('{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
        ('{"name": "Ada"}', '{"name": "Ada"}', []),
        ('{"name": "Ada", "parameters": {"a": 1}} done', '{"name": "Ada", "parameters": {"a": 1}} done', []),
        ('{"a": [1, {"name": "weather"}]}', '{"a": [1, {"name": "weather"}]}', []),
        ("{1, 2}", "{1, 2}", []),
        ('{"name": "wea', '{"name": "wea', []),
        # a call cannot follow text
        (f"So: {llama()}", f"So: {llama()}", []),
        ("<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        ("<|python", "<|python", []),
    ],
)
def test_llama(text, content, calls):
    assert summary(LLAMA, text) == (content, calls)


@pytest.mark.parametrize(
    ("form", "text", "name", "why"),
    [
        (HERMES, "<tool_call>", None, ENDED),
        (HERMES, '<tool_call>\n{"na', None, ENDED),
        (HERMES, '<tool_call>\n{"name": "wea', None, ENDED),
        (HERMES, '<tool_call>\n{"name": "weather", "argum', "weather", ENDED),
        (HERMES, '<tool_call>\n{"name": "weather", "arguments": {', "weather", ENDED),
        (HERMES, '<tool_call>\n{"name": "weather", "arguments": {"place": "Par', "weather", ENDED),
        (HERMES, '<tool_call>\n{"name": "weather", "arguments": {"place": "Paris"}', "weather", ENDED),
        (HERMES, '<tool_call>\n{"arguments": {}, "name": "weather"', None, ENDED),
        (HERMES, hermes(arguments="{place: 1}"), "weather", "broken"),
        (HERMES, hermes(arguments="{'place': 1}"), "weather", "broken"),
        (HERMES, hermes(arguments='{"place": True}'), "weather", "broken"),
        (HERMES, hermes(arguments='{"days": 1 2}'), "weather", "not an object"),
        (HERMES, hermes(arguments='{"days": [1}]'), "weather", "broken"),
        (HERMES, hermes(arguments="[1]"), "weather", "not an object"),
        (HERMES, hermes(arguments='"Paris"'), "weather", "not an object"),
        (HERMES, '<tool_call>\n{"arguments": {}}\n</tool_call>', None, "not an object"),
        (HERMES, '<tool_call>\n{"name": 3, "arguments": {}}\n</tool_call>', None, "not an object"),
        (HERMES, '<tool_call>\n{"name": "", "arguments": {}}\n</tool_call>', None, "not an object"),
        (HERMES, '<tool_call>\nweather(1)\n</tool_call>', None, "broken"),
        (HERMES, hermes().replace("}\n<", "} oops\n<"), "weather", "text between"),
        # twice the same key: what was given out first is not what would count
        (HERMES, '<tool_call>{"name": "a", "arguments": {}, "arguments": {"b": 1}}</tool_call>', "a", "twice"),
        (HERMES, '<tool_call>{"name": "a", "parameters": {}, "arguments": {"b": 1}}</tool_call>', "a", "twice"),
        (HERMES, '<tool_call>{"name": "a", "arguments": {}, "name": "b"}</tool_call>', "a", "twice"),
        (LLAMA, '{"name": "weather", "parameters": {"place": "Par', "weather", ENDED),
        (LLAMA, '{"name": "weather", "parameters": {"place": Paris}}', "weather", "broken"),
        (LLAMA, '{"name": "weather", "parameters": {"place": "Paris"}', "weather", ENDED),
    ],
)  # fmt: skip
def test_what_is_no_call(form, text, name, why):
    answer = Answer.of(read(form, [text]))
    (call,) = answer.calls
    assert call.name == name
    assert why in call.error
    assert answer.content == ""
    assert re.fullmatch("call_[0-9a-f]{24}", call.id)


@pytest.mark.parametrize(("form", "write"), [(HERMES, hermes), (LLAMA, llama)])
def test_the_reason_for_a_cut(form, write):
    text = write()
    for end in range(20, len(text) - len("}\n</tool_call>")):
        (call,) = Answer.of(read(form, [text[:end]], CUT)).calls
        assert call.error == CUT
    assert Answer.of(read(form, [write()], CUT)).calls[0].error is None


def test_text_that_is_cut_where_no_tool_is_named():
    assert summary(LLAMA, '{"name": "Ada", "par', CUT) == ('{"name": "Ada", "par', [])
    assert summary(LLAMA, '{"na', CUT) == ('{"na', [])


def test_one_broken_call_does_not_spoil_its_neighbours():
    content, calls = summary(HERMES, f"A {hermes()}\nB {hermes(arguments='{x}')}\nC {hermes('now', '{}')} D")
    assert content == "A\nB\nC\nD"
    assert [call[0] for call in calls] == ["weather", "weather", "now"]
    assert [len(call) for call in calls] == [2, 3, 2]


def test_arguments_are_given_out_while_they_are_written():
    parser = HERMES.parser()
    text = hermes(arguments='{"place": "Paris", "days": 3}')
    given = [event for character in text[: text.index(', "days')] for event in parser.feed(character)]
    assert given[0].name == "weather"
    assert "".join(event.args for event in given) == '{"place": "Paris"'


def test_text_is_given_out_while_it_is_written():
    for form in (HERMES, LLAMA):
        parser = form.parser()
        assert list(parser.feed("Hello")) == [Said("Hello")]
        assert list(parser.feed(" you")) == [Said(" you")]


# --- however the text is cut ---

STRINGS = st.text(alphabet='ab{}[]"\\<>/_tcol,:; \n\té😀\u2028', max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(STRINGS, VALUES, max_size=3)
NAMES = st.sampled_from(["weather", "now", "nobody", 'a "quoted" {name}'])


@st.composite
def calls(draw, markers):
    name, arguments = draw(NAMES), draw(ARGUMENTS)
    dump = draw(st.sampled_from([json.dumps, lambda value: json.dumps(value, ensure_ascii=False)]))
    key = draw(st.sampled_from(["arguments", "parameters"]))
    whole = {"name": name, key: draw(st.sampled_from([arguments, dump(arguments)]))}
    if draw(st.booleans()):
        whole = dict(reversed(whole.items()))
    text = json.dumps(whole, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    return f"<tool_call>{draw(st.sampled_from(['', chr(10)]))}{text}\n</tool_call>" if markers else text


@st.composite
def answers(draw, markers):
    other = st.sampled_from(["<tool_call>", "</tool_call>", "\n", "; ", " ", "<|python_tag|>", "{", '{"name": "now", '])
    pieces = draw(st.lists(calls(markers) | STRINGS | other, max_size=5))
    text = "".join(pieces)
    if draw(st.booleans()):
        text = text[: draw(st.integers(0, len(text)))]
    return text


@st.composite
def cut_answers(draw, markers):
    text = draw(answers(markers))
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return text, [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(("form", "markers"), [(HERMES, True), (LLAMA, False)], ids=["hermes", "llama"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_however_an_answer_is_cut_into_pieces_it_is_the_same(form, markers, data):
    text, pieces = data.draw(cut_answers(markers))
    cut = data.draw(st.sampled_from([None, CUT]))
    whole = joined(read(form, [text], cut))
    assert joined(read(form, pieces, cut)) == whole
    assert joined(read(form, text, cut)) == whole  # by character


@pytest.mark.parametrize(("form", "markers"), [(HERMES, True), (LLAMA, False)], ids=["hermes", "llama"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_langchain_reads_streamed_calls_as_they_are(form, markers, data):
    """`AIMessageChunk` takes half a call for a whole one, if it is let: what is spoiled must not pass."""
    _, pieces = data.draw(cut_answers(markers))
    events = read(form, pieces)
    message = AIMessageChunk(content="")
    for event in events:
        if isinstance(event, Said):
            message += AIMessageChunk(content=event.text)
        elif isinstance(event, CallPiece):
            chunk = tool_call_chunk(name=event.name, args=event.args, id=event.id, index=event.index)
            message += AIMessageChunk(content="", tool_call_chunks=[chunk])
    answer = Answer.of(events)
    good = [call for call in answer.calls if call.error is None]
    assert message.content == answer.content
    assert [(c["name"], c["args"], c["id"]) for c in message.tool_calls] == [
        (call.name, json.loads(call.args, strict=False), call.id) for call in good
    ]
    assert [c["id"] for c in message.invalid_tool_calls] == [call.id for call in answer.calls if call.error]


@given(text=st.text(alphabet='{}[]":,\\a1 \n', max_size=25) | ARGUMENTS.map(json.dumps))
@settings(max_examples=300, deadline=None)
def test_spoiled_arguments_are_none_to_langchain(text):
    chunk = tool_call_chunk(name="f", args=text + spoil(text), id="1", index=0)
    message = AIMessageChunk(content="", tool_call_chunks=[chunk])
    assert not message.tool_calls
    assert len(message.invalid_tool_calls) == 1


@given(arguments=st.lists(ARGUMENTS, min_size=1, max_size=3), before=st.sampled_from(["", "Well.", "a < b"]))
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read(arguments, before):
    for form, write in ((HERMES, hermes), (LLAMA, llama)):
        written = [write(arguments=json.dumps(one)) for one in arguments]
        said = before if form is HERMES else ""
        text = said + form.separator.join(written)
        assert summary(form, text) == (said, [("weather", one) for one in arguments])


# --- the grammar and the parser ---


@pytest.fixture(scope="module")
def compiler():
    tokenizer = byte_level_tokenizer(extra_tokens=("<tool_response>", "<|python_tag|>"))
    return GrammarCompiler(tokenizer, len(tokenizer), [tokenizer.eos_token_id])


def sampled(matcher, compiler, generator, tokenizer, limit=400):
    """Text that the grammar allows, token by token, with a liking for ends."""
    ids, state = [], matcher
    while len(ids) < limit:
        allowed = state.allowed([state])[0].nonzero()[:, 0].tolist()
        ends = [token for token in allowed if token in compiler.end_tokens]
        if ends and (generator.random() < 0.3 or len(allowed) == len(ends)):
            return tokenizer.decode(ids)
        others = [token for token in allowed if token not in compiler.end_tokens]
        closing = [token for token in others if tokenizer.decode([token])[:1] in '"}]']
        token = generator.choice(closing if closing and generator.random() < 0.5 else others)
        ids.append(token)
        state = state.advance(token)
    return None


@pytest.mark.parametrize("form", [HERMES, LLAMA], ids=["hermes", "llama"])
@pytest.mark.parametrize(("choice", "parallel"), [("any", True), ("any", False), ("weather", True), ("auto", True)])
def test_whatever_the_grammar_allows_the_parser_reads(compiler, form, choice, parallel):
    tokenizer = compiler._tokenizer
    matcher = compiler.compile(form.grammar(REQUEST.tools, choice, parallel))
    schemas = {tool["function"]["name"]: arguments_schema(tool) for tool in REQUEST.tools}
    generator = random.Random(f"{form.name} {choice}")
    texts = []
    for _ in range(20):
        state, text = matcher, ""
        if choice == "auto":  # begin with the trigger, or nothing but text would come of it
            text = form.trigger
            for token in tokenizer.encode(text, add_special_tokens=False):
                state = state.advance(token)
        rest = sampled(state, compiler, generator, tokenizer)
        if rest is not None:
            texts.append(text + rest)
    assert len(texts) > 5
    for text in texts:
        content, found = summary(form, text)
        assert found, text
        for name, arguments in found:  # fails to unpack what was spoiled
            assert misfit(arguments, schemas[name]) is None
        assert not content
        assert choice in ("any", "auto") or {name for name, _ in found} == {choice}
        assert parallel or len(found) == 1


@pytest.mark.parametrize(
    ("form", "text", "choice", "accepted"),
    [
        (HERMES, hermes(), "any", True),
        (HERMES, f"{hermes()}\n{hermes('now', '{}')}", "any", True),
        (HERMES, f"Well.\n{hermes()}", "any", False),
        (HERMES, f"Well.\n{hermes()}", "auto", True),
        (HERMES, "Well, <tool> or not.", "auto", True),
        (HERMES, hermes("now", "{}"), "weather", False),
        (HERMES, hermes("nobody", "{}"), "auto", False),
        (HERMES, hermes(arguments='{"place": 3}'), "auto", False),
        (HERMES, hermes(arguments='{"place": "x", "other": 3}'), "auto", False),
        (HERMES, hermes(arguments="{}"), "auto", False),
        (LLAMA, llama(), "any", True),
        (LLAMA, f"{llama()}; {llama('now', '{}')}", "any", True),
        (LLAMA, "Well.", "auto", True),
        (LLAMA, "Well.", "any", False),
        (LLAMA, llama(), "auto", True),
        (LLAMA, llama("nobody", "{}"), "auto", False),
    ],
)
def test_what_the_grammar_takes(compiler, form, text, choice, accepted):
    assert compiler.compile(form.grammar(REQUEST.tools, choice, True)).accepts(text) is accepted


def test_grammars_of_nothing():
    assert HERMES.grammar(REQUEST.tools, "none", True) is None
    with pytest.raises(SettingsError, match="no tool is named 'other'"):
        HERMES.grammar(REQUEST.tools, "other", True)


# --- markers that are control tokens ---


def test_markers_that_the_text_leaves_out():
    from tokenizers import AddedToken

    special = [AddedToken(marker, special=True, normalized=False) for marker in ("<tool_call>", "</tool_call>")]
    tokenizer = byte_level_tokenizer(extra_tokens=("<other>",))
    assert HERMES.markers(tokenizer) == LLAMA.markers(tokenizer) == HERMES.markers(None) == {}
    tokenizer.add_tokens(special, special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    assert HERMES.markers(tokenizer) == dict(zip(ids, ("<tool_call>", "</tool_call>"), strict=True))
