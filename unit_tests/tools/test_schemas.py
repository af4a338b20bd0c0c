"""Schemas of classes and tools without loss, and the forms that name a schema."""

from decimal import Decimal
from typing import Any, Literal

import pytest
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, Field, NaiveDatetime, RootModel

from langchain_saffron.errors import GrammarError, SettingsError
from langchain_saffron.grammar.check import check_schema
from langchain_saffron.interface.response_format import as_tool, document_schema, read_response_format, schema_of
from langchain_saffron.tools import tool_request
from langchain_saffron.tools.request import arguments_schema, check_tools
from langchain_saffron.tools.schemas import class_schema, is_object, recursive
from langchain_saffron.tools.validation import beyond_grammar, misfit

OBJECT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


class Tree(BaseModel):
    """A tree."""

    name: str
    children: list["Tree"] = []


class Numbers(RootModel[list[int]]):
    """Some numbers."""


def grow(tree: Tree) -> str:
    """Grow a tree."""
    return tree.name


@pytest.mark.parametrize(
    "given",
    [
        Tree,
        StructuredTool.from_function(lambda **_: "", name="Tree", description="A tree.", args_schema=Tree),
        StructuredTool.from_function(
            lambda **_: "", name="Tree", description="A tree.", args_schema=Tree.model_json_schema()
        ),
    ],
    ids=["class", "tool", "MCP"],
)
def test_recursion_is_kept(given: Any):
    (made,) = tool_request([given]).tools
    parameters = made["function"]["parameters"]
    assert recursive(parameters)
    closed = arguments_schema(made)
    leaf = {"name": "b", "children": []}
    assert misfit({"name": "a", "children": [leaf, {"name": "c", "children": [leaf]}]}, closed) is None
    assert "of type string" in str(misfit({"name": "a", "children": [{"name": 3}]}, closed))
    check_schema(closed, "tool")


def test_classes_without_recursion_are_shown_as_ever():
    class Flat(BaseModel):
        """Flat."""

        kind: Literal["a", "b"]
        count: int = 3

    (made,) = tool_request([Flat]).tools
    assert "$defs" not in made["function"]["parameters"]
    assert "title" not in str(made)
    assert not recursive(Flat.model_json_schema())


def test_decimals_have_the_digits_of_their_class():
    class Price(BaseModel):
        price: Decimal = Field(max_digits=5, decimal_places=2)
        share: Decimal = Field(max_digits=2, decimal_places=2)
        at: NaiveDatetime

    properties = class_schema(Price)["properties"]
    assert properties["price"]["multipleOf"] == 0.01
    assert properties["price"]["exclusiveMaximum"] == 1000
    assert properties["share"]["minimum"] == 0.01
    assert "pattern" in properties["at"]
    assert tool_request([Price]).tools[0]["function"]["parameters"]["properties"]["price"]["type"] == "number"


FORMS: dict[str, dict[str, Any]] = {
    "schema": {"title": "X", **OBJECT},
    "name and schema": {"name": "X", "schema": OBJECT},
    "OpenAI's": {"type": "json_schema", "json_schema": {"name": "X", "strict": True, "schema": OBJECT}},
    "OpenAI's flat": {"type": "json_schema", "name": "X", "schema": OBJECT},
    "OpenAI's function": {"type": "function", "function": {"name": "X", "parameters": OBJECT}},
    "Anthropic's": {"name": "X", "description": "An x.", "input_schema": OBJECT},
    "Bedrock's": {"toolSpec": {"name": "X", "inputSchema": {"json": OBJECT}}},
}


@pytest.mark.parametrize("form", FORMS)
def test_schemas_are_read_in_every_form(form: str):
    made = schema_of(FORMS[form])
    assert made["title"] == "X"
    assert made["properties"] == OBJECT["properties"]
    read = read_response_format(FORMS[form])
    plain = read_response_format(OBJECT)
    assert read is not None
    assert plain is not None
    assert read.schema is not None
    assert read.schema["properties"] == OBJECT["properties"]
    assert document_schema(FORMS[form])["json_schema"]["name"] == "X"
    bound, wrapped = as_tool(FORMS[form])
    assert not wrapped
    (called,) = tool_request([bound]).tools
    assert called["function"]["name"] == "X"
    assert called["function"]["parameters"]["properties"] == OBJECT["properties"]


@pytest.mark.parametrize("schema", [Numbers, {"title": "X", "type": "array", "items": {"type": "integer"}}])
def test_what_is_no_object_is_an_argument_of_its_tool(schema: Any):
    bound, wrapped = as_tool(schema)
    assert wrapped
    (called,) = tool_request([bound]).tools
    assert called["function"]["parameters"]["properties"]["value"]["type"] == "array"
    with pytest.raises(SettingsError, match="takes no object"):
        tool_request([{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}])


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OBJECT, True), ({"$ref": "#/$defs/A", "$defs": {"A": OBJECT}}, True), ({"allOf": [OBJECT]}, True),
        ({"anyOf": [OBJECT, OBJECT]}, True), ({"anyOf": [OBJECT, {"type": "null"}]}, False),
        ({"type": "string"}, False),        ({"$ref": "#"}, False), ({}, False),
    ],
)  # fmt: skip
def test_which_schemas_are_of_objects(schema: dict[str, Any], expected: bool):
    assert is_object(schema) == expected


def test_a_tool_that_cannot_be_followed_is_named_when_it_is_bound():
    @tool
    def good(x: int) -> str:
        """Good."""
        return str(x)

    bad = {"name": "bad", "input_schema": {"type": "object", "properties": {"x": {"$ref": "https://a.b/c"}}}}
    check_tools(tool_request([good]))
    with pytest.raises(GrammarError, match="tool 'bad', at properties/x"):
        check_tools(tool_request([good, bad]))


@pytest.mark.parametrize(
    ("value", "schema", "why"),
    [
        ([1, 1], {"uniqueItems": True}, "document[1]: is there twice"),
        ([1, True], {"uniqueItems": True}, None),
        ({"x": 1}, {"propertyNames": {"enum": ["y"]}}, "the name 'x'"),
        (3, {"not": {"const": 3}}, "'not' excludes"),
        ({"a": 1}, {"if": {"required": ["a"]}, "then": {"required": ["b"]}}, "'b' is missing"),
        ({"c": 1}, {"if": {"required": ["a"]}, "else": {"required": ["d"]}}, "'d' is missing"),
        ([1, 2], {"contains": {"const": 3}}, "too few"),
        ([3, 3], {"contains": {"const": 3}, "maxContains": 1}, "maxContains"),
        ({"a": 1}, {"dependentRequired": {"a": ["b"]}}, "which 'a' needs"),
        ({"a": 1}, {"dependentSchemas": {"a": {"required": ["b"]}}}, "'b' is missing"),
    ],
)  # fmt: skip
def test_rules_beyond_a_grammar_are_looked_at(value: Any, schema: dict[str, Any], why: str | None):
    assert beyond_grammar(schema) is schema
    assert beyond_grammar({"properties": {"inner": schema}}) is not None
    assert beyond_grammar({"properties": {"not": {}, "if": {"enum": [{"contains": 1}]}}}) is None
    found = misfit(value, schema, "document")
    assert (found is None) if why is None else (why in str(found))
