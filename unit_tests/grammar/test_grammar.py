"""Grammars over real tokenizers: what they accept and refuse, how markers are written, and what goes wrong."""

import json
import random
import re
import subprocess
import sys
import textwrap
from typing import Any

import jsonschema
import pytest
from tokenizers import AddedToken

from langchain_saffron.errors import GrammarError, SettingsError
from langchain_saffron.grammar import Grammar, Tag
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.grammar.matcher import GrammarMatcher
from langchain_saffron.search.constraint import permitted
from unit_tests.builders import byte_level_tokenizer, metaspace_tokenizer
from unit_tests.grammars import too_complex

MARKERS = ("<tool_call>", "</tool_call>")


class Model:
    """A tokenizer, and grammars compiled for it."""

    def __init__(self, tokenizer: Any, padding: int = 5) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer) + padding
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.compiler = GrammarCompiler(tokenizer, self.size, (self.end, tokenizer.eos_token_id))

    def ids(self, text: str, spelled: bool = False) -> list[int]:
        """The tokens of `text`; markers are one token each, or `spelled` in letters."""
        if spelled:
            pieces = [[*piece] if piece in MARKERS else [piece] for piece in re.split("(</?tool_call>)", text)]
            return [i for piece in pieces for part in piece for i in self.ids(part)]
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def reads(self, grammar: Grammar, text: str | list[int], masked: bool = True, ended: bool = True) -> bool:
        """Whether an answer may be `text`: token by token, each allowed by the mask, and then an end token.

        What is forced is masked down to the tokenizer's own tokens; without `masked`, any tokens may write it.
        """
        state: GrammarMatcher = self.compiler.compile(grammar)
        for token in self.ids(text) if isinstance(text, str) else text:
            allowed = state.allowed([state])[0]
            assert bool(allowed[self.end]) == state.accepting
            if masked and not allowed[token]:
                return False
            try:
                state = state.advance(token)
            except GrammarError:
                assert not masked, "the mask allows a token that the grammar refuses"
                return False
        return not ended or (state.accepting and bool(state.allowed([state])[0, self.end]))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(byte_level_tokenizer())


def special_markers() -> Model:
    """Markers that are flagged special: an answer's text leaves them out."""
    tokenizer = byte_level_tokenizer(extra_tokens=("<|python_tag|>",))
    marked = [AddedToken(marker, normalized=False, special=True) for marker in (*MARKERS, "<|python_tag|>")]
    tokenizer.add_special_tokens({"additional_special_tokens": marked})
    return Model(tokenizer)


# JSON

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["b"]},
    {"type": "object", "additionalProperties": {"type": "boolean"}},
    {"enum": ["red", "green", 3, None, "<tool_call>"]},
    {"const": {"k": [1, "é"]}},
    {"anyOf": [{"type": "integer", "minimum": 3, "maximum": 12}, {"type": "null"}]},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 1},
    {"type": "array", "items": {"enum": [1, "a"]}, "maxItems": 1},
    {"type": "array", "items": {"type": "number"}, "maxItems": 0},
    {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1},
    {"type": "object", "properties": {"a": {}}, "required": ["a"], "maxProperties": 1},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "string", "maxLength": 4},
    {"type": "string", "minLength": 2, "pattern": "^[a-c]+$"},
    {"type": "string", "format": "date"},
    {
        "$defs": {"node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["next"], "additionalProperties": False}},  # noqa: E501
        "$ref": "#/$defs/node",
    },
    {
        "type": "object",
        "properties": {"in": {"type": "object", "properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"]}},
        "required": ["in"],
    },
    {"type": ["string", "null"]},
    {},
]  # fmt: skip
VALUES: list[Any] = [
    {"a": 1}, {"a": -17}, {"a": 1.5}, {"a": "1"}, {}, {"a": 1, "b": "é 😀 \"q\" \\ \n\t/"}, {"b": ""},
    {"a": 1, "c": 2}, {"b": "x", "z": [1, {"y": None}]}, {"x": True, "y": False}, {"x": 1}, "red", "blue", 3, 4, None,
    True, "<tool_call>", {"k": [1, "é"]}, {"k": [1]}, 12, 13, 2, -3, [], [1], [1, 2.5, -3e10], [1, 2, 3, 4], ["a"],
    ["a", True], ["a", True, 1], "abcd", "abcde", "ab", "a", "abd", "日本語だ", "2024-02-29", "2024-02-30",
    "2024-2-3", {"next": None}, {"next": {"next": {"next": None}}}, {"next": 3}, {"in": {"x": "a"}},
    {"in": {"x": "c"}}, {"in": {}}, {"in": {"x": "b", "y": [[], {}]}}, "null", "", 0, 1e100,
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_json_is_accepted_exactly_if_it_fits_the_schema(model: Model, schema: dict[str, Any]):
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(["date"]))
    grammar = Grammar.json_schema(schema)
    fits = [validator.is_valid(value) for value in VALUES]
    assert any(fits)
    for value, fitting in zip(VALUES, fits, strict=True):
        text = json.dumps(value, ensure_ascii=False)
        assert model.reads(grammar, text, masked=False) == fitting, text
        assert model.compiler.compile(grammar).accepts(text) == fitting, text


@pytest.mark.parametrize(
    "text", ['{"a":1}', '{ "a": 1}', '{"a": 1 }', '{"a": 1}\n', ' {"a": 1}', '{"a" : 1}', '{"a":  1}']
)
def test_no_other_white_space(model: Model, text: str):
    grammar = Grammar.json_object()
    assert model.reads(grammar, '{"a": 1}')
    assert not model.reads(grammar, text, masked=False)


def test_json_objects_of_any_kind(model: Model):
    assert model.reads(Grammar.json_object(), "{}")
    assert model.reads(Grammar.json_object(), '{"é": {"b": [null, 1e5, "\\u00e9\\ud83d\\ude00"]}}')
    assert not model.reads(Grammar.json_object(), "[]")
    assert not model.reads(Grammar.json_object(), '{"a": "\\ud83d"}'), "half a character"


def test_formats_that_nobody_knows_are_annotations(model: Model):
    schema = {
        "type": "object",
        "properties": {"format": {"type": "string", "format": "password"}},
        "required": ["format"],
    }
    assert model.reads(Grammar.json_schema(schema), '{"format": "x"}')
    assert not model.reads(Grammar.json_schema({"type": "string", "format": "uuid"}), '"x"')


def test_regular_expressions(model: Model):
    assert model.reads(Grammar.regex(r"(yes|no)/[0-9]{2}"), "no/42")
    assert not model.reads(Grammar.regex(r"(yes|no)/[0-9]{2}"), "no/4")
    assert model.reads(Grammar.regex("日本?"), "日")
    assert model.reads(Grammar.regex("a\nb|/"), "a\nb")


def test_lark(model: Model):
    grammar = Grammar.lark('start: "(" start ")" | WORD\nWORD: /[a-z]+/')
    assert model.reads(grammar, "((fox))")
    assert not model.reads(grammar, "((fox)")


def test_grammars_are_values():
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert Grammar.json_schema(schema) == Grammar.json_schema(json.loads(json.dumps(schema)))
    assert len({Grammar.regex("a"), Grammar.regex("a"), Grammar.lark("a")}) == 2


# Calls

TOOL = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "at": {"$ref": "#/$defs/place"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
}
ARGUMENTS = [
    {"city": "Köln 😀"},
    {"city": 'a "b" </tool_call>', "unit": "F"},
    {"city": "", "days": None, "tags": []},
    {"city": "x", "days": 3, "at": {"lat": 1.5}, "tags": ["é", "\n"]},
]
WRONG = [{}, {"city": 3}, {"unit": "F"}, {"city": "x", "unit": "K"}, {"city": "x", "at": {}}, {"city": "x", "z": 1}]


def hermes(name: str, arguments: Any) -> str:
    written = json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {written}}}\n</tool_call>'


def llama(name: str, arguments: Any) -> str:
    return f'{{"name": "{name}", "parameters": {json.dumps(arguments, ensure_ascii=False)}}}'


def calls(form: Any, text: bool, many: bool = True) -> Grammar:
    tags = []
    for name, schema in (
        ("weather", TOOL),
        ("weather_now", {"type": "object", "properties": {}, "additionalProperties": False}),
    ):
        before, after = form(name, 0).split(" 0")
        tags.append(Tag(f"{before} ", schema, after))
    bare = form is llama
    trigger = '{"name": ' if bare else "<tool_call>"
    return Grammar.tagged(tags, trigger=trigger, text=text, at_start=bare, many=many, separator="; " if bare else "\n")


@pytest.mark.parametrize("form", [hermes, llama])
@pytest.mark.parametrize("text", [False, True])
def test_calls_follow_their_tools_schema(model: Model, form: Any, text: bool):
    grammar = calls(form, text)
    validator = jsonschema.Draft202012Validator(TOOL)
    for arguments in [*ARGUMENTS, *WRONG]:
        assert model.reads(grammar, form("weather", arguments)) == validator.is_valid(arguments), arguments
    assert model.reads(grammar, form("weather_now", {}))
    assert not model.reads(grammar, form("weather_now", {"city": "x"}))
    assert not model.reads(grammar, form("whether", {}))


@pytest.mark.parametrize("form", [hermes, llama])
def test_several_calls(model: Model, form: Any):
    separator = "; " if form is llama else "\n"
    two = form("weather", {"city": "x"}) + separator + form("weather_now", {})
    for text in (False, True):
        assert model.reads(calls(form, text), two + separator + form("weather_now", {}))
        assert not model.reads(calls(form, text), two + separator)
        assert not model.reads(calls(form, text), two + " and more")
        assert not model.reads(calls(form, text, many=False), two)
        assert model.reads(calls(form, text, many=False), form("weather_now", {}))


def test_free_text_may_come_before_a_marked_call(model: Model):
    grammar = calls(hermes, text=True)
    for text in ("", "Hello.", "a < b <tool 😀 </tool_call>", "{}", "half a marker <tool_c", "日本"):
        assert model.reads(grammar, text)
        assert model.reads(grammar, text + hermes("weather_now", {}))
        assert not model.reads(grammar, text + "<tool_call>")
        assert not model.reads(grammar, text + "<tool_call> hm")
        assert not model.reads(calls(hermes, text=False), text)


def test_a_bare_call_can_only_begin_an_answer(model: Model):
    grammar = calls(llama, text=True)
    for text in ("", "Hello.", '{"names": 1}', "{", '[{"name": 3}]', 'So: {"name": 3}', "  ", '{"name"'):
        assert model.reads(grammar, text)
        assert not model.reads(calls(llama, text=False), text)
    assert model.reads(grammar, f" \n{llama('weather_now', {})}")
    for text in (
        '{"name": ',
        '{"name": "x"}',
        ' {"name": "x"}',
        '{"name": 3} is what',
        f"{'<|python_tag|>'}{llama('x', {})}",
    ):
        assert not model.reads(grammar, text)


def test_a_marker_may_be_one_token_or_spelled_out(model: Model):
    one = model.tokenizer.convert_tokens_to_ids("<tool_call>")
    good, bad = hermes("weather", {"city": "x"}), hermes("weather", {"unit": "F"})
    assert model.ids(good)[0] == one
    assert one not in model.ids(good, spelled=True)
    grammar = calls(hermes, text=True)
    for spelled in (False, True):
        assert model.reads(
            grammar, model.ids(f"Well. {good}", spelled)[: -len(model.ids("</tool_call>", spelled))], ended=False
        )
        assert model.reads(grammar, model.ids(f"{good}\n{good}", spelled), masked=False)
        assert not model.reads(grammar, model.ids(bad, spelled), masked=False)
    assert model.reads(grammar, good)
    # where the marker is forced, it is the token that models are trained to write
    state = model.compiler.compile(calls(hermes, text=False))
    assert state.allowed([state])[0].nonzero().flatten().tolist() == [one]


@pytest.mark.parametrize("text", [False, True])
def test_markers_that_are_flagged_special(text: bool):
    model = special_markers()
    grammar = calls(hermes, text)
    good, bad = hermes("weather", {"city": "x"}), hermes("weather", {"unit": "F"})
    assert model.ids(good)[0] == model.tokenizer.convert_tokens_to_ids("<tool_call>")
    for spelled in (False, True):
        # within a marker that is spelled out, the mask wants the tokenizer's own pieces of the rest
        masked = not spelled
        assert model.reads(grammar, model.ids(good, spelled), masked)
        assert model.reads(grammar, model.ids(f"{good}\n{good}", spelled), masked)
        assert model.reads(grammar, model.ids(f"Well. {good}", spelled), masked) == text
        assert not model.reads(grammar, model.ids(bad, spelled), masked)
    state = model.compiler.compile(grammar)
    both = [model.tokenizer.convert_tokens_to_ids("<tool_call>"), *model.ids("<")]
    assert state.allowed([state])[0, both].all()
    bare = calls(llama, text)
    tag = "<|python_tag|>"
    assert model.ids(tag) == [model.tokenizer.convert_tokens_to_ids(tag)]
    assert model.reads(bare, tag + llama("weather_now", {}))
    assert not model.reads(bare, tag + llama("weather_now", {"city": "x"}))


@pytest.mark.parametrize("document", [Grammar.json_schema(SCHEMAS[0]), Grammar.json_object(), Grammar.regex("yes|no")])
@pytest.mark.parametrize("form", [hermes, llama])
def test_calls_or_a_document(model: Model, form: Any, document: Grammar):
    grammar = Grammar.either(calls(form, text=False), document)
    assert model.reads(grammar, form("weather", {"city": "x"}))
    # which is a document too, if that may be any object
    assert not model.reads(grammar, form("weather", 3)) or model.reads(document, form("weather", 3))
    for text in ('{"a": 1}', '{"name": {}}', "yes", "{", ""):
        assert model.reads(grammar, text) == model.reads(document, text), text


# Tokens


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level_tokenizer(blank_runs=True), byte_level_tokenizer(pattern=None), metaspace_tokenizer(),
        metaspace_tokenizer(legacy=True),
    ],
    ids=["blank runs", "gpt2", "metaspace", "legacy"],
)  # fmt: skip
def test_every_answer_that_the_masks_allow_reads_as_its_text(tokenizer: Any):
    """Random walks over what is allowed: the text that the tokenizer makes of them fits the schema."""
    model = Model(tokenizer)
    schema = {
        "type": "object",
        "properties": {
            "a b": {"type": "string", "maxLength": 12},
            "n": {"type": "integer", "minimum": 0, "maximum": 999},
        },
        "required": ["a b", "n"],
        "additionalProperties": False,
    }
    choice = random.Random(7)
    for _ in range(40):
        state, tokens = model.compiler.compile(Grammar.json_schema(schema)), []
        while not state.done:
            allowed = state.allowed([state])[0].nonzero().flatten().tolist()
            allowed = [i for i in allowed if i != model.end and i != tokenizer.eos_token_id]
            tokens.append(choice.choice(allowed))
            assert tokens[-1] < len(tokenizer)
            state = state.advance(tokens[-1])
        text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        jsonschema.validate(json.loads(text), schema)


def test_padding_rows_control_tokens_and_early_ends_are_never_allowed(model: Model):
    for grammar in (Grammar.regex("(?s:.*)x"), calls(hermes, text=True)):
        state = model.compiler.compile(grammar)
        allowed = state.allowed([state])[0]
        assert len(allowed) == model.size
        assert not allowed[len(model.tokenizer) :].any()
        assert bool(allowed[model.end]) == bool(allowed[model.tokenizer.eos_token_id]) == state.accepting
        for name in ("<|im_start|>", "<|begin_of_text|>"):
            assert not allowed[model.tokenizer.convert_tokens_to_ids(name)]


def test_states_do_not_change_each_other(model: Model):
    """Beams that branch off one response: each goes its own way, and their common past stays what it was."""
    root = model.compiler.compile(Grammar.regex("a(b(1|2)|c(3|4))x*"))
    a = root.advance(*model.ids("a"))
    before = a.allowed([a])
    b, c = a.advance(*model.ids("b")), a.advance(*model.ids("c"))
    one = b.advance(*model.ids("1"))
    mask = a.allowed([b, c, a, one, root])
    assert [set(model.tokenizer.convert_ids_to_tokens(row.nonzero().flatten().tolist())) for row in mask[:2]] == [
        {"1", "2"},
        {"3", "4"},
    ]
    assert mask[2].equal(before[0])
    assert mask[3, model.end]
    assert [state.accepting for state in (root, a, b, c, one)] == [False, False, False, False, True]
    assert c.advance(*model.ids("4")).accepting
    with pytest.raises(GrammarError):
        c.advance(*model.ids("1"))
    again = model.compiler.compile(Grammar.regex("a(b(1|2)|c(3|4))x*"))
    assert again.allowed([again]).equal(root.allowed([root]))


@pytest.mark.parametrize("seed", range(4))
def test_every_state_is_that_of_its_own_tokens(model: Model, seed: int):
    """Random beams that branch and die, against one matcher a beam that reads all of its tokens."""
    choice = random.Random(seed)
    schema = {"type": "array", "items": {"anyOf": [SCHEMAS[0], {"type": "string"}, {"type": "integer"}]}}
    tools = (calls(hermes, text=True), calls(llama, text=True))
    for grammar in (Grammar.json_schema(schema), *tools, Grammar.regex("(ab?|b+c)*")):
        root = model.compiler.compile(grammar)
        live: dict[tuple[int, ...], GrammarMatcher] = {(): root}
        past: dict[tuple[int, ...], GrammarMatcher] = {}
        for _ in range(25):
            mask = root.allowed([*live.values()])
            children: dict[tuple[int, ...], GrammarMatcher] = {}
            for row, (tokens, state) in zip(mask, live.items(), strict=True):
                fresh = replay(model, grammar, tokens)
                assert row.equal(fresh.allowed([fresh])[0])
                assert (state.accepting, state.done) == (fresh.accepting, fresh.done)
                row[[model.end, model.tokenizer.eos_token_id]] = False
                allowed = row.nonzero().flatten().tolist()
                # those that look like JSON or a marker, so that not all of it is text
                better = [i for i in allowed if model.tokenizer.convert_ids_to_tokens(i)[:1] in '{}[]",:<']
                for token in choice.sample(allowed, min(2, len(allowed))) + choice.sample(better, min(2, len(better))):
                    children[*tokens, token] = state.advance(token)
            past |= live
            kept = choice.sample(sorted(children), min(5, len(children)))
            live = {tokens: children[tokens] for tokens in kept if not children[tokens].done}
            if not live:
                break
        # what others have taken over can be made again
        for tokens in choice.sample(sorted(past), min(5, len(past))):
            fresh = replay(model, grammar, tokens)
            assert root.allowed([past[tokens]]).equal(fresh.allowed([fresh]))


def replay(model: Model, grammar: Grammar, tokens: tuple[int, ...]) -> GrammarMatcher:
    """The state behind `tokens`, with a matcher of its own from the beginning."""
    state = model.compiler.compile(grammar)
    for token in tokens:
        state = state.advance(token).copy()
    return state


def test_nothing_but_ending_is_done(model: Model):
    state = model.compiler.compile(Grammar.regex("ab?"))
    a = state.advance(*model.ids("a"))
    assert (state.done, a.done, a.accepting) == (False, False, True)
    assert a.advance(*model.ids("b")).done


def test_a_ban_on_ending_yields_where_nothing_else_is_allowed(model: Model):
    state = model.compiler.compile(Grammar.regex("a|ab"))
    a = state.advance(*model.ids("a"))
    ab = a.advance(*model.ids("b"))
    ends = (model.end, model.tokenizer.eos_token_id)
    mask = permitted([a, ab], ends, may_end=False)
    assert mask[0].nonzero().flatten().tolist() == model.ids("b")
    assert sorted(mask[1].nonzero().flatten().tolist()) == sorted(ends)
    assert permitted([a, ab], ends, may_end=True)[0].sum() == 3


# Errors


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar.json_schema({"type": "nonsense"}), "JSON schema.*nonsense"),
        (Grammar.json_schema({"$ref": "#/$defs/none"}), "JSON schema.*/\\$defs/none"),
        (Grammar.json_schema({"type": "integer", "minimum": 3, "maximum": 1}), "minimum"),
        (Grammar.json_schema({"not": {}}), "not"),
        (Grammar.json_schema({"type": "object", "anyOf": [{"$ref": "#"}]}), "JSON schema.*refers to itself"),
        (Grammar.json_schema({"allOf": [{"$ref": "#"}]}), "JSON schema.*refers to itself"),
        (Grammar.regex("a("), "regular expression.*unclosed group"),
        (Grammar.regex("(?=a)b"), "look-around"),
        (Grammar.lark("start: nothing"), "grammar.*nothing"),
        (Grammar.lark("hello"), "grammar"),
        (Grammar.lark("start: <|im_end|>"), "im_end"),
        (Grammar.tagged([Tag("<t>", {"type": 3}, "")], trigger="<t>", text=True, at_start=False, many=True, separator=""), "tools"),  # noqa: E501
    ],
    ids=lambda value: value if isinstance(value, str) else value.source[:30],
)  # fmt: skip
def test_what_llguidance_refuses_is_said_readably(model: Model, grammar: Grammar, words: str):
    with pytest.raises(GrammarError, match=f"(?s){words}") as caught:
        model.compiler.compile(grammar)
    assert isinstance(caught.value, SettingsError)
    assert len(str(caught.value)) < 500


def test_what_is_no_json_or_no_call():
    with pytest.raises(SettingsError, match="plain JSON"):
        Grammar.json_schema({"type": {1, 2}})
    options: dict[str, Any] = {"text": True, "at_start": False, "many": True, "separator": "\n"}
    with pytest.raises(SettingsError, match="at least one tool"):
        Grammar.tagged([], trigger="<t>", **options)
    with pytest.raises(SettingsError, match="does not begin with"):
        Grammar.tagged([Tag("{", {}, "}")], trigger="<t>", **options)


def test_a_grammar_that_becomes_too_complex_is_an_error(model: Model):
    state = model.compiler.compile(too_complex())
    with pytest.raises(GrammarError, match="2000"):
        state.advance(*model.ids("a")).advance(*model.ids("b"))


def test_a_vocabulary_without_the_letters_of_a_grammar():
    model = Model(metaspace_tokenizer(byte_fallback=False))
    assert model.reads(Grammar.regex("rice|Ω"), model.tokenizer.convert_tokens_to_ids([*"rice"]))
    with pytest.raises(GrammarError, match="vocabulary"):
        model.compiler.compile(Grammar.regex("Ω"))


def test_tokenizers_whose_tokens_cannot_be_read():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(GrammarError, match="stand for bytes"):
        GrammarCompiler(tokenizer, 2, ()).compile(Grammar.regex("a"))
    with pytest.raises(GrammarError, match="fast tokenizer"):
        GrammarCompiler(object(), 2, ()).compile(Grammar.regex("a"))


@pytest.mark.slow
def test_without_llguidance_everything_else_works():
    """In a process of its own, where the import fails."""
    script = """
        import sys
        from langchain_saffron import SearchSettings
        from langchain_saffron.errors import ExtraRequiredError, SettingsError
        from langchain_saffron.grammar import Grammar
        from unit_tests.tiny_models import random_engine
        assert "llguidance" not in sys.modules
        sys.modules["llguidance"] = None
        engine = random_engine("llama")
        settings = SearchSettings(search="greedy", max_tokens=3)
        assert len(engine.generate([5, 6], settings=settings).token_ids) == 3
        try:
            engine.submit([5, 6], settings=settings, grammar=Grammar.json_object())
        except ExtraRequiredError as error:
            assert isinstance(error, SettingsError)
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "pip install 'langchain-saffron[agents]'" in done.stdout


def test_the_latest_grammars_are_kept(model: Model):
    compiler = GrammarCompiler(model.tokenizer, model.size, (model.end,), kept=2)
    for pattern in ("a", "b", "a", "c", "d"):
        compiler.compile(Grammar.regex(pattern))
    assert [grammar.source for grammar in compiler._roots] == ["c", "d"]
