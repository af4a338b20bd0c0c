"""Whether arguments fit a schema."""

import pytest

from langchain_saffron.tools.validation import misfit


@pytest.mark.parametrize(
    ("value", "schema", "why"),
    [
        ({}, {"type": "object"}, None),
        ([], {"type": "object"}, "arguments: not of type object"),
        (True, {"type": "integer"}, "not of type integer"),
        (1, {"type": "boolean"}, "not of type boolean"),
        (1.0, {"type": "integer"}, None),
        (1.5, {"type": "integer"}, "not of type integer"),
        (float("nan"), {"type": "number"}, "not of type number"),
        (None, {"type": ["string", "null"]}, None),
        (3, {"type": ["string", "null"]}, "not of type string or null"),
        (None, {"type": "string", "nullable": True}, None),
        (3, {"type": "something new"}, None),
        ("a", {"enum": ["a", 1]}, None),
        (True, {"enum": ["a", 1]}, "not one of"),
        ("b", {"const": "a"}, "not 'a'"),
        ({"a": {}}, {"required": ["b"]}, "'b' is missing"),
        ({"a": "x"}, {"properties": {"a": {"type": "number"}}}, "arguments.a: not of type number"),
        ({"b": 1}, {"properties": {"a": {}}, "additionalProperties": False}, "'b' is unknown"),
        ({"b": 1}, {"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, "arguments.b: not of type"),
        ({"b": 1}, {"patternProperties": {"b": {}}, "additionalProperties": False}, None),
        ([1, "x"], {"items": {"type": "number"}}, "arguments[1]: not of type number"),
        ([1, "x"], {"prefixItems": [{"type": "string"}]}, "arguments[0]: not of type string"),
        (3, {"anyOf": [{"type": "string"}, {"type": "null"}]}, "not of type string"),
        (3, {"anyOf": [{"type": "string"}, {"type": "number"}]}, None),
        (3, {"allOf": [{"type": "number"}, {"enum": [4]}]}, "not one of"),
        ({"a": {"a": 1}}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, "arguments.a.a: not of type object"),
        (3, {"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"type": "string"}}}, "not of type string"),
        (3, {"$ref": "#/$defs/nowhere"}, None),
        (3, {"$ref": "https://example.org/schema"}, None),
        (3, {"$ref": "#"}, None),
        (3, False, "not allowed"),
        (3, True, None),
    ],
)  # fmt: skip
def test_misfits(value, schema, why):
    found = misfit(value, schema)
    assert (found is None) if why is None else (why in found)


def test_an_anchor_is_not_taken_for_the_root():
    """Anything may stand for one that is nowhere; the root itself is another matter."""
    schema = {"type": "object", "properties": {"city": {"$ref": "#city"}, "inner": {"$ref": "#"}}}
    assert misfit({"city": "Bonn"}, schema) is None
    assert misfit({"inner": {"city": 1}}, schema) is None
    assert misfit({"inner": "Bonn"}, schema) is not None
    schema["$defs"] = {"place": {"$anchor": "city", "type": "string"}}
    assert misfit({"city": "Bonn"}, schema) is None
    assert "not of type string" in str(misfit({"city": 3}, schema))
