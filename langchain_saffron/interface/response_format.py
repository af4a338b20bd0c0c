"""The `response_format` of a call: what an answer has to look like, in any of the ecosystem's forms."""

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_origin

from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import RootModel

from langchain_saffron.errors import SettingsError
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.check import check_schema
from langchain_saffron.templates.tool_call_text import schema_instruction
from langchain_saffron.tools import ToolFormat, ToolRequest
from langchain_saffron.tools.request import closed_schema
from langchain_saffron.tools.schemas import WRAPPED, is_object, lossless_parameters, named_schema

_FORMS = (
    "{'type': 'json_schema', 'json_schema': {'name': …, 'schema': …}}, {'type': 'json_object'}, "
    "{'type': 'regex', 'regex': …}, {'type': 'lark', 'lark': …}, a JSON schema, a class, or a Grammar"
)
_KEYWORDS = {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "$defs", "additionalProperties"}


@dataclass(frozen=True)
class ResponseFormat:
    """What an answer has to look like.

    Attributes:
        grammar: The form itself.
        schema: The JSON schema, as the prompt shows it; `None` for other forms, of which the prompt says nothing.
    """

    grammar: Grammar
    schema: dict[str, Any] | None = None

    @property
    def instruction(self) -> str | None:
        """What a chat model is told about it."""
        return None if self.schema is None else schema_instruction(self.schema)


def read_response_format(given: Any) -> ResponseFormat | None:
    """Put a response format of any form into one; `None` and `{"type": "text"}` ask for nothing.

    Raises:
        SettingsError: It has none of the known forms.
    """
    if given is None or isinstance(given, Grammar):
        return given if given is None else ResponseFormat(given)
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat(Grammar.json_object())
    if kind in ("regex", "lark"):
        text = given.get(kind)
        if not isinstance(text, str):
            raise SettingsError(f"response_format: type {kind!r} needs a string under {kind!r}")
        return ResponseFormat(Grammar.regex(text) if kind == "regex" else Grammar.lark(text))
    if kind == "json_schema" and not isinstance(given.get("json_schema", given.get("schema")), dict):
        raise SettingsError("response_format: type 'json_schema' needs {'json_schema': {'schema': {…}}}")
    named = named_schema(given) if isinstance(given, dict) else None
    if named is not None:
        return _of_schema(named[2])
    if isinstance(given, dict) and not _KEYWORDS & set(given):
        raise SettingsError(f"response_format: {given!r} is none of {_FORMS}")
    if not isinstance(given, dict | type):
        raise SettingsError(f"response_format: {given!r} is none of {_FORMS}")
    return _of_schema(given if isinstance(given, dict) else schema_of(given))


def answer_grammar(asked: ToolRequest, tool_format: ToolFormat | None, form: ResponseFormat | None) -> Grammar | None:
    """What an answer may be: calls, a document, either of them, or anything.

    Args:
        asked: The tools, and how they may be called.
        tool_format: How calls are written; `None` where there can be none.
        form: Of the document, if one is asked for.

    Raises:
        SettingsError: Calls cannot be forced in that format, or not combined with that document.
    """
    if tool_format is None:
        return form.grammar if form else None
    if form is None or asked.forced:
        return tool_format.grammar(asked.tools, asked.choice, asked.parallel)
    calls = tool_format.grammar(asked.tools, "any", asked.parallel)
    return form.grammar if calls is None else Grammar.either(calls, form.grammar)


def instructed(messages: Sequence[BaseMessage], instruction: str) -> list[BaseMessage]:
    """The conversation with an instruction in its system message."""
    leads = bool(messages) and isinstance(messages[0], SystemMessage)
    head, rest = (messages[:1], messages[1:]) if leads else ([], messages)
    text = "\n\n".join([*(message.text for message in head), instruction])
    return [SystemMessage(text), *rest]


def schema_of(schema: Any) -> dict[str, Any]:
    """The JSON schema of a class, a tool or a schema in any form, with its name as the title.

    Raises:
        SettingsError: It cannot be read as one.
    """
    _refuse_plain_types(schema)
    if isinstance(schema, dict):
        named = named_schema(schema)
        if named is not None:
            name, description, inner = named
            about = {"title": name, "description": description}
            return {**{key: value for key, value in about.items() if value}, **inner}
        if "name" not in schema:
            return dict(schema)
    try:
        made = convert_to_json_schema(schema)
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{schema!r} cannot be read as a schema: {error}") from error
    parameters = lossless_parameters(schema, None)
    about = {key: made[key] for key in ("title", "description") if key in made}
    return made if parameters is None else {**about, **parameters}


def as_tool(schema: Any) -> tuple[Any, bool]:
    """A schema in any form as a tool.

    Returns:
        Something that `tool_request` reads, and whether the schema is but one argument of it, as it is no object.

    Raises:
        SettingsError: It cannot be read as one.
    """
    _refuse_plain_types(schema)
    if not isinstance(schema, dict) and not (isinstance(schema, type) and issubclass(schema, RootModel)):
        return schema, False
    made = schema_of(schema)
    about = {key: made.pop(key) for key in ("title", "description") if isinstance(made.get(key), str)} if made else {}
    if "title" not in about:
        # says what is missing
        return schema, False
    function = {"name": about["title"], "parameters": made}
    if about.get("description"):
        function["description"] = about["description"]
    if is_object(made):
        return {"type": "function", "function": function}, False
    shared = {key: made.pop(key) for key in ("$defs", "definitions") if key in made}
    function["parameters"] = {"type": "object", "properties": {WRAPPED: made}, "required": [WRAPPED], **shared}
    return {"type": "function", "function": function}, True


def document_schema(schema: Any) -> dict[str, Any]:
    """OpenAI's `response_format` for documents of a schema in any form.

    Raises:
        SettingsError: It cannot be read as one.
        GrammarError: It cannot be followed.
    """
    made = schema_of(schema)
    name = made.get("title") if isinstance(made.get("title"), str) else None
    check_schema(closed_schema(made), f"the schema {name!r}" if name else "the schema")
    return {"type": "json_schema", "json_schema": {"name": name or "answer", "schema": made}}


def _refuse_plain_types(schema: Any) -> None:
    """What LangChain would take for a function: an answer would have to hold the arguments of its constructor."""
    kind = get_origin(schema) or schema
    plain = kind in (Union, UnionType) or (
        isinstance(kind, type) and (vars(builtins).get(kind.__name__) is kind or issubclass(kind, Enum))
    )
    if plain:
        shown = schema.__name__ if isinstance(schema, type) else schema
        raise SettingsError(
            f"the type {shown} cannot be read as a schema by itself: make it a field of a Pydantic class, or wrap it: "
            f"class Answer(RootModel[{shown}])"
        )


def _of_schema(schema: dict[str, Any]) -> ResponseFormat:
    # keys that nobody asked for are not to be written
    return ResponseFormat(Grammar.json_schema(closed_schema(schema)), schema)
