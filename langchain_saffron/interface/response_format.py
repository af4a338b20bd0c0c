"""The `response_format` of a call: what an answer has to look like, in any of the ecosystem's forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.utils.function_calling import convert_to_json_schema

from langchain_saffron.errors import SettingsError
from langchain_saffron.grammar import Grammar
from langchain_saffron.templates.tool_call_text import schema_instruction
from langchain_saffron.tools import ToolFormat, ToolRequest
from langchain_saffron.tools.request import closed_schema

_FORMS = (
    "{'type': 'json_schema', 'json_schema': {'name': …, 'schema': …}}, {'type': 'json_object'}, "
    "{'type': 'regex', 'regex': …}, {'type': 'lark', 'lark': …}, a JSON schema, a class, or a Grammar"
)


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
    if kind == "json_schema":
        inner = given.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict):
            raise SettingsError("response_format: type 'json_schema' needs {'json_schema': {'schema': {…}}}")
        return _of_schema(schema)
    if isinstance(given, dict) and not {"type", "properties", "$ref", "anyOf", "enum", "const"} & set(given):
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
    """The JSON schema of a class, a tool or a schema that LangChain knows.

    Raises:
        SettingsError: It cannot be read as one.
    """
    try:
        return convert_to_json_schema(schema)
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{schema!r} cannot be read as a schema: {error}") from error


def document_schema(schema: Any) -> dict[str, Any]:
    """OpenAI's `response_format` for documents of a schema in any form.

    Raises:
        SettingsError: It cannot be read as one.
    """
    plain = (
        isinstance(schema, dict) and "title" not in schema and "parameters" not in schema and "function" not in schema
    )
    made = schema if plain else schema_of(schema)
    return {"type": "json_schema", "json_schema": {"name": made.get("title", "answer"), "schema": made}}


def _of_schema(schema: dict[str, Any]) -> ResponseFormat:
    # keys that nobody asked for are not to be written
    return ResponseFormat(Grammar.json_schema(closed_schema(schema)), schema)
