"""What a caller asks for: which tools, whether one has to be called, and whether several may be."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_saffron.errors import SettingsError

_WORDS = {None: "auto", "auto": "auto", "any": "any", "required": "any", True: "any", "none": "none", False: "none"}


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
        SettingsError: A tool is none, two share a name, or the choice names none of them.
    """
    made = tuple(_tool(tool, strict) for tool in tools or ())
    names = [tool["function"]["name"] for tool in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"tools: several are named {', '.join(map(repr, twice))}; rename all but one")
    return ToolRequest(made, _choice(choice, names), parallel is not False)


def arguments_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """The schema that a tool's arguments have to follow: an object without any keys but its own."""
    schema = tool["function"].get("parameters") or {}
    return closed_schema({"type": "object", "properties": {}, **schema})


def closed_schema(schema: Any) -> Any:
    """`schema` without keys that it does not name, wherever it does not speak of such keys itself.

    Classes ignore keys that they do not know, and a model should not write what nobody reads.
    """
    if isinstance(schema, list):
        return [closed_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # the parts of an `allOf` share one object, so none of them may close it
    closed = {
        key: value if key in ("allOf", "enum", "const", "default", "examples") else _inner(key, value)
        for key, value in schema.items()
    }
    if isinstance(schema.get("properties"), dict) and "allOf" not in schema:
        closed.setdefault("additionalProperties", "patternProperties" in schema)
    return closed


def _inner(key: str, value: Any) -> Any:
    if key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, dict):
        return {name: closed_schema(inner) for name, inner in value.items()}
    return closed_schema(value)


def _tool(tool: Any, strict: bool | None) -> dict[str, Any]:
    try:
        made = convert_to_openai_tool(tool, strict=strict or None)
        json.dumps(made)
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"tools: {_shown(tool)} cannot be used as a tool: {error}") from error
    function = made.get("function")
    if made.get("type") != "function" or not isinstance(function, dict) or not function.get("name"):
        raise SettingsError(f"tools: {_shown(tool)} is no function that a local model could call")
    # `strict` is between caller and provider: models have not seen it in prompts
    function = {key: value for key, value in function.items() if key != "strict"}
    return {"type": "function", "function": function}


def _choice(choice: Any, names: list[str]) -> str:
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        if not isinstance(name, str):
            kind = choice.get("type")
            name = kind if kind in ("auto", "any", "none", "required") else None
            if name is None:
                raise SettingsError(f"tool_choice: {choice!r} is not {{'type': 'function', 'function': {{'name': ...}}}}")
            return _choice(name, names)
        choice = name
        word = None
    else:
        try:
            word = _WORDS.get(choice) if choice not in names else None
        except TypeError:
            raise SettingsError(f"tool_choice: {choice!r} is not a string, boolean or dict") from None
    if word is None and choice not in names:
        known = ", ".join(map(repr, names)) or "there are none"
        raise SettingsError(
            f"tool_choice: {choice!r} is neither 'auto', 'any', 'required', 'none' nor the name of a tool ({known})"
        )
    if word == "any" and not names:
        raise SettingsError(f"tool_choice: {choice!r} needs tools, and none were given")
    return word or str(choice)


def _shown(tool: Any) -> str:
    text = repr(tool)
    return text if len(text) < 120 else f"{text[:120]}…"
