"""Tools and choices of every form, and the schemas of their arguments."""

import json
from typing import Annotated, Literal, Optional, TypedDict

import pydantic.v1 as pydantic_v1
import pytest
from langchain_core.tools import BaseTool, StructuredTool, Tool, tool
from pydantic import BaseModel, Field

from langchain_saffron.errors import SettingsError
from langchain_saffron.tools import ToolRequest, tool_request
from langchain_saffron.tools.request import arguments_schema, closed_schema
from langchain_saffron.tools.validation import misfit


def weather(place: str, days: int = 1) -> str:
    """The weather in a place.

    Args:
        place: Where.
        days: How many days ahead.
    """
    return place * days


class Weather(BaseModel):
    """The weather in a place."""

    place: str = Field(description="Where.")
    days: int = 1


class WeatherV1(pydantic_v1.BaseModel):
    """The weather in a place."""

    place: str = pydantic_v1.Field(description="Where.")
    days: int = 1


class WeatherDict(TypedDict):
    """The weather in a place."""

    place: Annotated[str, ..., "Where."]
    days: Annotated[int, 1, "How many days ahead."]


class WeatherTool(BaseTool):
    name: str = "weather"
    description: str = "The weather in a place."
    args_schema: type[BaseModel] = Weather

    def _run(self, place: str, days: int = 1) -> str:
        return weather(place, days)


PARAMETERS = {
    "type": "object",
    "properties": {"place": {"type": "string", "description": "Where."}, "days": {"type": "integer"}},
    "required": ["place"],
}
OPENAI = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather in a place.", "parameters": PARAMETERS},
}
FORMS = {
    "function": weather,
    "tool": tool(weather),
    "structured": StructuredTool.from_function(weather),
    "base": WeatherTool(),
    "pydantic": Weather,
    "pydantic v1": WeatherV1,
    "typed dict": WeatherDict,
    "openai": OPENAI,
    "openai function": OPENAI["function"],
    "anthropic": {"name": "weather", "description": "The weather in a place.", "input_schema": PARAMETERS},
    "bedrock": {
        "toolSpec": {"name": "weather", "description": "The weather in a place.", "inputSchema": {"json": PARAMETERS}}
    },
    "json schema": {"title": "weather", "description": "The weather in a place.", **PARAMETERS},
}


@pytest.mark.parametrize("form", FORMS)
def test_tools_of_every_form(form):
    (made,) = tool_request([FORMS[form]]).tools
    assert made["type"] == "function"
    function = made["function"]
    assert function["name"].lower().startswith("weather")
    assert function["description"].startswith("The weather in a place.")
    assert function["parameters"]["properties"]["place"]["type"] == "string"
    assert function["parameters"]["properties"]["days"]["type"] == "integer"
    assert "place" in function["parameters"]["required"]
    json.dumps(made)
    assert tool_request([made]).tools == (made,)
    closed = arguments_schema(made)
    assert closed["additionalProperties"] is False
    assert misfit({"place": "Paris", "days": 2}, closed) is None
    assert misfit({"days": 2}, closed) is not None or form == "typed dict"


def test_a_tool_that_takes_one_text():
    made = tool_request([Tool(name="ask", description="Ask.", func=str)]).tools[0]["function"]
    assert made["parameters"]["required"] == ["__arg1"]


def test_a_function_without_arguments():
    made = tool_request([{"name": "now", "description": "The time."}]).tools[0]
    assert arguments_schema(made) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_strict_is_not_shown_to_models():
    made = tool_request([weather], strict=True).tools[0]["function"]
    assert "strict" not in made
    assert made["parameters"]["additionalProperties"] is False
    assert tool_request([weather], strict=False) == tool_request([weather])
    given = {"type": "function", "function": {**OPENAI["function"], "strict": True}}
    assert "strict" not in tool_request([given]).tools[0]["function"]


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, "auto"),
        (False, "auto"),
        ("auto", "auto"),
        ("any", "any"),
        ("required", "any"),
        (True, "any"),
        ("none", "none"),
        ("weather", "weather"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
        ({"type": "function", "name": "weather"}, "weather"),
        ({"type": "tool", "name": "weather"}, "weather"),
        ({"name": "weather"}, "weather"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "any"),
        ({"type": "none"}, "none"),
    ],
)
def test_choices_of_every_form(choice, meant):
    request = tool_request([weather], choice)
    assert request.choice == meant
    assert request.forced == (meant in ("any", "weather"))
    again = request.options()
    assert tool_request(again["tools"], again["tool_choice"], again["parallel_tool_calls"]) == request


@pytest.mark.parametrize(
    "choice", ["other", "", 3, ["weather"], {}, {"type": "function"}, {"function": {}}, {"function": "weather"},
               {"type": ["auto"]}, {"type": "function", "function": {"name": "other"}}, {"name": None}],
)  # fmt: skip
def test_choices_that_are_none(choice):
    with pytest.raises(SettingsError, match="tool_choice: "):
        tool_request([weather], choice)


@pytest.mark.parametrize("choice", ["any", "required", True, "weather", {"name": "weather"}])
def test_nothing_to_choose_from(choice):
    with pytest.raises(SettingsError, match=r"tool_choice: .*none"):
        tool_request([], choice)
    assert tool_request(None) == tool_request([], "auto") == ToolRequest(())


def test_parallel():
    assert tool_request([weather]).parallel
    assert tool_request([weather], parallel=True).parallel
    assert not tool_request([weather], parallel=False).parallel


@pytest.mark.parametrize(
    "given",
    [
        3,
        "weather",
        None,
        {},
        {"type": "function"},
        {"type": "function", "function": {}},
        {"type": "web_search_preview"},
        {"type": "function", "name": "weather", "parameters": PARAMETERS},
        {"type": "function", "function": {"name": "x", "parameters": {"default": object()}}},
    ],
)
def test_what_is_no_tool(given):
    with pytest.raises(SettingsError, match="tools: "):
        tool_request([given])


def test_a_class_that_has_no_schema():
    class Odd(BaseModel):
        """Odd."""

        model_config = {"arbitrary_types_allowed": True}
        lock: type(pytest)

    with pytest.raises(SettingsError, match="cannot be used as a tool"):
        tool_request([Odd])


def test_two_tools_of_one_name():
    other = {"name": "weather", "description": "Another.", "parameters": {"type": "object", "properties": {}}}
    with pytest.raises(SettingsError, match="several are named 'weather'; rename all but one"):
        tool_request([weather, other])
    # given twice, it is one tool, and so are a class and its own schema
    assert tool_request([weather, weather]) == tool_request([weather])
    assert tool_request([Weather, Weather.model_json_schema()]) == tool_request([Weather])


# --- schemas of arguments ---


class Place(BaseModel):
    city: str
    district: str | None = None


class Trip(BaseModel):
    """A trip."""

    start: Place
    stops: list[Place] = []
    by: Literal["train", "bike"] = "train"
    budget: Optional[float] = None  # noqa: UP045
    extra: dict[str, int] = {}


def test_objects_take_no_other_keys():
    closed = arguments_schema(tool_request([Trip]).tools[0])
    good = {"start": {"city": "Köln"}, "stops": [{"city": "Bonn", "district": None}], "extra": {"any": 1}}
    assert misfit(good, closed) is None
    for bad in (
        {**good, "speed": 3},
        {**good, "start": {"city": "Köln", "zip": 1}},
        {**good, "stops": [{"city": "Bonn", "zip": 1}]},
    ):
        assert "is unknown" in misfit(bad, closed)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        # parts that share one object
        {
            "allOf": [
                {"properties": {"a": {}}},
                {"anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
                {"anyOf": [{}]},
            ]
        },
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
        {"properties": {"a": {}}, "if": {"properties": {"a": {"const": 1}}}, "then": {"properties": {"b": {}}}},
        # values that look like schemas
        {"enum": [{"properties": {"a": 1}}]},
        {"default": {"properties": {"a": 1}}, "examples": [{"properties": {}}], "const": {"properties": {}}},
        True,
        {"type": "object", "properties": ["no schemas"]},
    ],
)
def test_schemas_that_stay_open(schema):
    assert closed_schema(schema) == schema


def test_properties_that_are_called_like_keywords():
    schema = {"properties": {"properties": {"type": "string"}, "enum": {"properties": {"a": {}}}, "not": {}}}
    closed = closed_schema(schema)
    assert closed["additionalProperties"] is False
    assert closed["properties"]["properties"] == {"type": "string"}
    assert closed["properties"]["enum"] == {"properties": {"a": {}}, "additionalProperties": False}
    assert "additionalProperties" not in schema
    patterns = closed_schema({"properties": {"a": {}}, "patternProperties": {"^x": {"properties": {}}}})
    assert patterns["additionalProperties"] is True
    assert patterns["patternProperties"]["^x"]["additionalProperties"] is False
    assert closed_schema({"anyOf": [{"properties": {}}, {"type": "null"}]})["anyOf"][0]["additionalProperties"] is False


def test_parts_that_make_one_object_are_put_into_one():
    one = {"properties": {"a": {}, "b": {}}, "additionalProperties": False}
    first, second = {"properties": {"a": {}}}, {"properties": {"b": {}}}
    assert closed_schema({"allOf": [first, second]}) == one
    assert closed_schema({"properties": {"a": {}}, "allOf": [second]}) == one
    closed = closed_schema({"$ref": "#/$defs/A", "properties": {"b": {}}, "$defs": {"A": first}})
    assert closed["properties"].keys() == {"a", "b"}
    assert closed["additionalProperties"] is False
    inner = closed_schema({"properties": {"x": {"allOf": [{"$ref": "#/$defs/A"}, {}]}}, "$defs": {"A": first}})
    assert inner["properties"]["x"] == {"properties": {"a": {}}, "additionalProperties": False}
    bounded = {"allOf": [{"type": "number", "minimum": 1}, {"type": "integer", "minimum": 3, "maximum": 9}]}
    assert closed_schema(bounded) == {"type": "integer", "minimum": 3, "maximum": 9}
