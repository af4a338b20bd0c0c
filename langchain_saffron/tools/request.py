"""What a caller asks for: which tools, whether one has to be called, and whether several may be."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_saffron.errors import SettingsError
from langchain_saffron.grammar.check import check_schema
from langchain_saffron.grammar.merging import merged
from langchain_saffron.tools.schemas import is_object, lossless_parameters, without_titles

# as LangChain's other chat models read them; `False` asks for nothing
_WORDS = {None: "auto", False: "auto", "auto": "auto", "any": "any", "required": "any", True: "any", "none": "none"}

# what holds schemas by name, and what holds none but plain values
_NAMED = ("properties", "$defs", "definitions", "patternProperties")
_VALUES = ("enum", "const", "default", "examples")
# what applies several schemas to one object
_SHARING = ("if", "not", "dependentSchemas", "unevaluatedProperties")


@dataclass(frozen=True)
class ToolRequest:
    """Tools and how they may be called.

    Attributes:
        tools: In OpenAI's form.
        choice: `"auto"`, `"any"`, `"none"`, or the name of the tool that has to be called.
        parallel: Whether several calls may follow each other.
    """

    tools: tuple[dict[str, Any], ...]
    choice: str = "auto"
    parallel: bool = True

    @property
    def forced(self) -> bool:
        """Whether the answer has to be a call."""
        return self.choice not in ("auto", "none")

    def options(self) -> dict[str, Any]:
        """The same as options of a call."""
        return {"tools": list(self.tools), "tool_choice": self.choice, "parallel_tool_calls": self.parallel}


def tool_request(
    tools: Sequence[Any] | None, choice: Any = None, parallel: bool | None = None, strict: bool | None = None
) -> ToolRequest:
    """Put tools of any of LangChain's forms, and a tool choice of any of its forms, into one.

    Raises:
        SettingsError: A tool is none, two different ones share a name, or the choice names none of them.
    """
    if isinstance(tools, str) or not isinstance(tools, Iterable | None):
        raise SettingsError(f"tools: a list of tools is needed, not {tools!r}")
    made = tuple(_without_twins(_tool(tool, strict) for tool in tools or ()))
    names = [tool["function"]["name"] for tool in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"tools: several are named {', '.join(map(repr, twice))}; rename all but one")
    return ToolRequest(made, _choice(choice, names), parallel is not False)


def arguments_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """The schema that a tool's arguments have to follow: an object without any keys but its own."""
    schema = tool["function"].get("parameters") or {}
    # what is said elsewhere in the schema is not said here
    elsewhere = any(key in schema for key in ("$ref", "anyOf", "oneOf", "allOf"))
    return closed_schema(schema if elsewhere else {"type": "object", "properties": {}, **schema})


def check_tools(request: ToolRequest) -> None:
    """See before any call whether the schemas of tools can be followed.

    Raises:
        GrammarError: One cannot; the message names the tool and the place in its schema.
    """
    for tool in request.tools:
        check_schema(arguments_schema(tool), f"tool {tool['function']['name']!r}")


def closed_schema(schema: Any) -> Any:
    """`schema` without keys that it does not name, wherever it does not speak of such keys itself.

    Classes ignore keys that they do not know, and a model should not write what nobody reads. A schema whose parts
    share an object are put into one where that can be; else it stays as it is: each of them would close it to the
    others.
    """
    schema = merged(schema)
    return schema if _shares(schema) else _closed(schema)


def _shares(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_shares, schema))
    if not isinstance(schema, dict):
        return False
    beside = any(key in schema for key in ("anyOf", "oneOf", "$ref")) and "properties" in schema
    return (
        beside
        or len(schema.get("allOf", ())) > 1
        or ("allOf" in schema and "properties" in schema)
        or any(key in schema for key in _SHARING)
        or any(_shares(value) for key, value in schema.items() if key not in _VALUES and key not in _NAMED)
        or any(_shares(inner) for key in _NAMED for inner in _inner(schema, key).values())
    )


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: value
        if key in _VALUES
        else {name: _closed(inner) for name, inner in value.items()}
        if key in _NAMED and isinstance(value, dict)
        else _closed(value)
        for key, value in schema.items()
    }
    if isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", "patternProperties" in schema)
    return closed


def _inner(schema: dict[str, Any], key: str) -> dict[str, Any]:
    inner = schema.get(key)
    return inner if isinstance(inner, dict) else {}


def _without_twins(tools: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools once each: a class and its own schema are one tool, though only the schema has titles."""
    seen: list[Any] = []
    kept = []
    for tool in tools:
        bare = without_titles(tool)
        if bare not in seen:
            seen.append(bare)
            kept.append(tool)
    return kept


def _tool(tool: Any, strict: bool | None) -> dict[str, Any]:
    try:
        made = convert_to_openai_tool(tool, strict=strict or None)
        json.dumps(made)
    except Exception as error:  # LangChain and Pydantic have many ways to say no
        raise SettingsError(f"tools: {_shown(tool)} cannot be used as a tool: {error}") from error
    function = made.get("function")
    if made.get("type") != "function" or not isinstance(function, dict) or not function.get("name"):
        raise SettingsError(f"tools: {_shown(tool)} is no function that a local model could call")
    # `strict` is between caller and provider: models have not seen it in prompts
    function = {key: value for key, value in function.items() if key != "strict"}
    parameters = lossless_parameters(tool, function.get("parameters"))
    if parameters is not None:
        function["parameters"] = parameters
        if not is_object(parameters) and parameters:
            raise SettingsError(f"tools: {function['name']!r} takes no object, and a call's arguments are one")
    return {"type": "function", "function": function}


def _choice(choice: Any, names: list[str]) -> str:
    name = _named(choice) if isinstance(choice, dict) else choice
    if not isinstance(name, str | bool | None):
        raise SettingsError(f"tool_choice: {choice!r} is neither a word, a tool's name, a boolean nor a dict")
    word = _WORDS.get(name, str(name))
    if word not in ("auto", "any", "none", *names):
        known = ", ".join(map(repr, names)) or "there are none"
        raise SettingsError(
            f"tool_choice: {choice!r} is neither 'auto', 'any', 'required', 'none' nor the name of a tool ({known})"
        )
    if word == "any" and not names:
        raise SettingsError(f"tool_choice: {choice!r} needs tools, and none were given")
    return word


def _named(choice: dict[str, Any]) -> Any:
    """The tool or word that a dict names: OpenAI's for chats and for responses, or Anthropic's."""
    inner = choice.get("function", choice)
    name = inner.get("name") if isinstance(inner, dict) else None
    kind = choice.get("type")
    if name is None and isinstance(kind, str) and kind in _WORDS:
        return kind
    if not isinstance(name, str):
        raise SettingsError(f"tool_choice: {choice!r} is not {{'type': 'function', 'function': {{'name': '…'}}}}")
    return name


def _shown(tool: Any) -> str:
    text = repr(tool)
    return text if len(text) < 120 else f"{text[:120]}…"
