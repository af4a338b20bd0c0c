"""The shortest ends of half documents, against all documents of small languages."""

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.check import check_schema
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.grammar.json_text import value_end
from langchain_saffron.grammar.lark import shape_of
from langchain_saffron.grammar.matcher import GrammarMatcher
from langchain_saffron.search.constraint import leaves_room, permitted
from unit_tests.builders import byte_level_tokenizer
from unit_tests.grammar.test_grammar import SCHEMAS, TOOL, Model, calls, hermes, llama

FORMATS = {
    "date": (["2024-02-29", "2000-02-29", "0001-01-01"], ["2023-02-29", "1900-02-29", "0000-01-01", "2023-04-31"]),
    "time": (["10:00:00Z", "23:59:59.123456789+05:30"], ["24:00:00Z", "10:00:00", "10:00:00.1234567890Z"]),
    "date-time": (["2024-02-29T10:00:00Z"], ["2023-02-29T10:00:00Z", "2024-02-29T10:00:00.0000000000Z"]),
    "duration": (["P1W", "PT1H30M", "P1DT0.5S"], ["P", "PT", "P1DT", "P1234567D"]),
    "decimal": (["0", "-12.50"], ["1.", "00", "1." + "0" * 10]),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(byte_level_tokenizer())


@pytest.mark.parametrize("form", FORMATS)
def test_formats_are_bounded(model: Model, form: str):
    grammar = Grammar.json_schema({"type": "string", "format": form})
    root = model.compiler.compile(grammar)
    good, bad = FORMATS[form]
    assert all(root.accepts(json.dumps(text)) for text in good)
    assert not any(root.accepts(json.dumps(text)) for text in bad)


def test_decimals_as_earlier_versions_of_pydantic_write_them(model: Model):
    loose = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}
    root = model.compiler.compile(Grammar.json_schema(loose))
    assert root.accepts('"-1.50"')
    assert not root.accepts('"."')
    tight = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)"}
    root = model.compiler.compile(Grammar.json_schema(tight))
    assert root.accepts('"123.45"')
    assert not root.accepts('"1234"')
    assert not root.accepts('"1.234"')


MORE: list[dict[str, Any]] = [
    {"anyOf": [{"type": "object", "properties": {"long name": {"type": "string"}}, "required": ["long name"]}, {"enum": ["much longer than that is"]}]},  # noqa: E501
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 2},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2, "maxProperties": 3},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "minProperties": 1, "additionalProperties": False},  # noqa: E501
    {"type": "string", "minLength": 4, "maxLength": 9},
    {"type": "object", "properties": {"é": {"type": "number", "exclusiveMinimum": 0}}, "required": ["é"]},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
    {"title": "X", "$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/B"}}, "required": ["a"]}, "B": {"type": ["integer", "null"]}}},  # noqa: E501
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}], "properties": {"b": {"type": "boolean"}}, "required": ["b"]},  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize("schema", [*SCHEMAS, *MORE], ids=lambda schema: json.dumps(schema)[:40])
@pytest.mark.parametrize("seed", range(3))
def test_every_response_has_an_end_that_is_found(model: Model, schema: dict[str, Any], seed: int):
    """Random walks; wherever they stop, what is found makes the document whole."""
    chance = Random(seed)
    state = model.compiler.compile(Grammar.json_schema(schema))
    written: list[int] = []
    checks = jsonschema.Draft202012Validator(schema)
    for _ in range(25):
        end = state.shortest()
        assert end is not None
        text = model.tokenizer.decode([*written, *end])
        assert checks.is_valid(json.loads(text)), text
        assert state.fits(len(end))
        assert not end or not state.fits(len(end) - 1)
        fresh = model.compiler.compile(Grammar.json_schema(schema))
        for token in written:
            fresh = fresh.advance(token)
        # of a state whose ends nobody has tried, too
        for left in range(1, len(end) + 3):
            assert fresh.must_close(left) == (left == len(end))
            assert not fresh.beyond(left) or left < len(end)
        allowed = state.allowed([state])[0]
        allowed[list(model.compiler.end_tokens)] = False
        if state.done or not allowed.any():
            break
        token = chance.choice(allowed.nonzero().flatten().tolist())
        state = state.advance(token)
        written.append(token)


def test_ends_that_are_too_far_away_are_not_tried(model: Model, monkeypatch: pytest.MonkeyPatch):
    tried: list[int] = []
    real = GrammarMatcher._leads_to_an_end
    monkeypatch.setattr(GrammarMatcher, "_leads_to_an_end", lambda self, end: tried.append(len(end)) or real(self, end))
    items = {"type": "array", "items": {"type": "integer"}, "minItems": 50}
    root = model.compiler.compile(Grammar.json_schema(items))
    assert permitted([root], [], True, 20).any()
    assert len(tried) == 1, "what is unknown of the empty response is unknown of all"
    state: Any = root
    chance = Random(0)
    for step in range(8):
        token = chance.choice(state.allowed([state])[0].nonzero().flatten().tolist())
        child = state.advance(token)
        assert leaves_room(state, child, 20 - step, [])
        assert permitted([child], [], True, 20 - step).any()
        state = child
    assert len(tried) == 1
    end = state.shortest()
    assert end is not None
    assert len(tried) == 2
    for token in state.allowed([state])[0].nonzero().flatten().tolist()[:40]:
        child = state.advance(token)
        assert leaves_room(state, child, len(end) - 1, []) == (len(child.shortest() or ()) < len(end))


def test_the_shortest_of_several(model: Model):
    def shortest(schema: dict[str, Any]) -> str:
        end = model.compiler.compile(Grammar.json_schema(schema)).shortest()
        assert end is not None
        return model.tokenizer.decode(end)

    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    assert shortest(node) == '{"next": null}'
    assert shortest({"type": "object", "properties": {"a": {}}}) == "{}"
    assert shortest({"anyOf": [{"type": "string", "minLength": 30}, {"enum": ["abc"]}]}) == '"abc"'
    assert shortest(MORE[1]) in ('["a", "b"]', '["b", "a"]', '["a", "c"]', '["b", "c"]', '["c", "a"]', '["c", "b"]')
    assert len(shortest({"type": "string", "minLength": 300})) == 302


@pytest.mark.parametrize("form", [hermes, llama])
@pytest.mark.parametrize("text", [False, True])
def test_calls_have_ends(model: Model, form: Any, text: bool):
    grammar = calls(form, text)
    whole = form("weather", {"city": "x", "days": 3, "at": {"lat": 1.5}})
    state = model.compiler.compile(grammar)
    for token in model.ids(whole):
        end = state.shortest()
        assert end is not None
        assert state.accepting if not end else state._leads_to_an_end(end)
        state = state.advance(token)
    assert state.shortest() == ()
    forced = model.compiler.compile(calls(form, text=False)).shortest()
    assert forced is not None
    # the call without arguments is the shorter one
    assert model.tokenizer.decode(forced) == form("weather_now", {})


def test_ends_of_other_grammars(model: Model):
    for grammar, end in (
        (Grammar.regex("ab{3}c?|x.*y"), "xy"), (Grammar.regex("[a-z ]*"), ""),
        (Grammar.lark('start: "(" start ")" | WORD\nWORD: /[a-z]{2}/'), None),
    ):  # fmt: skip
        found = model.compiler.compile(grammar).shortest()
        assert found is not None
        assert end is None or model.tokenizer.decode(found) == end
        assert model.compiler.compile(grammar).accepts(model.tokenizer.decode(found))


def test_half_characters_are_finished(model: Model):
    state = model.compiler.compile(Grammar.json_schema({"type": "object", "additionalProperties": {"type": "string"}}))
    for token in model.ids('{"日')[:-1]:
        state = state.advance(token)
    end = state.shortest()
    assert end
    assert state._leads_to_an_end(end)


def test_where_values_end():
    assert value_end(b'"a\\"b", 1', 0) == 6
    assert value_end(b'"a\\"', 0) is None
    assert value_end(b'{"a": "}"}]', 0) == 10
    assert value_end(b"[1, [2]", 0) is None
    assert value_end(b"12, 3", 0) == 2


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "properties": {"x": {"$ref": "http://a.b/c"}}}, "tool 'f', at properties/x: 'http://a.b/c'"),
        ({"properties": {"x": {"type": "nothing"}}}, "tool 'f', at properties/x: 'nothing' is no type"),
        ({"properties": {"x": {"type": "string", "pattern": "(?=a)b"}}}, "at properties/x: the pattern.*looks around"),
        ({"properties": {"x": {"enum": []}}}, "at properties/x: no value"),
        ({"properties": {"x": {"$ref": "#"}}, "required": ["x"]}, "no document of it ends"),
        ({"properties": {"x": {"type": "integer", "minimum": 2, "maximum": 1}}}, "at properties/x: no number"),
        ({"properties": {"x": {"not": {}}}}, "at properties/x: .*'not'"),
        ({"$defs": {"A": {"$dynamicRef": "#a"}}, "items": {"$ref": "#/$defs/A"}}, r"at \$defs/A: '\$dynamicRef'"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_named_with_its_place(schema: dict[str, Any], words: str):
    with pytest.raises(GrammarError, match=words):
        check_schema(schema, "tool 'f'")
    check_schema(TOOL, "tool 'f'")


def test_compilers_of_other_models_find_the_same_end(model: Model):
    other = GrammarCompiler(model.tokenizer, model.size, (model.end,))
    grammar = Grammar.json_schema(TOOL)
    assert other.compile(grammar).shortest() == model.compiler.compile(grammar).shortest()
    assert shape_of(TOOL)
