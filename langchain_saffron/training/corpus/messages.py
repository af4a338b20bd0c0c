"""The messages of a conversation as records hold them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_saffron.templates.tool_call_text import call_json

# role and content, and for an assistant that calls tools `tool_calls`: one call a line, as JSON
Message = dict[str, str]
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatbot"), "assistant"),
    # what a tool returns is input to the model, as what a user says
    **dict.fromkeys(("tool", "function"), "user"),
}


class ShapeError(ValueError):
    """A record of no known shape; the message says what it has."""


def kind_of(value: Any) -> str:
    """What a JSON value is, in the words of a message: "a list", "null"."""
    if value is None:
        return "null"
    kinds = ((bool, "a boolean"), (str, "a text"), (int | float, "a number"), (list, "a list"), (Mapping, "an object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def is_answer(message: Message) -> bool:
    """Whether it is an assistant's and says something or calls a tool."""
    return message["role"] == "assistant" and bool(message["content"].strip() or message.get("tool_calls"))


def read_messages(values: Sequence[Any], field: str) -> list[Message]:
    """Messages of a record, with OpenAI's `role` and `content` or ShareGPT's `from` and `value`.

    Args:
        values: As a record holds them.
        field: The name of the record's field, for error messages.

    Raises:
        ShapeError: There are none, or one of them is something else.
    """
    if not values:
        raise ShapeError(f"{field} is empty")
    return [_message(value, f"{field}[{index}]") for index, value in enumerate(values)]


def text_in(value: Any, where: str) -> str:
    """A value that has to be a text.

    Raises:
        ShapeError: It is none; the message says `where`.
    """
    if not isinstance(value, str):
        raise ShapeError(f"{where} is {kind_of(value)}, not a text")
    return value


def printable(name: Any) -> str:
    """A name from a record, short enough for a message and without what a terminal cannot print."""
    text = str(name) if isinstance(name, str) else kind_of(name)
    return ascii(text[:40])[1:-1] if not text[:40].isprintable() else text[:40]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise ShapeError(f"{where} is {kind_of(value)}, not a message")
    calls = value.get("tool_calls") or ()
    role, content = (
        next((name for name in names if value.get(name) is not None), next((n for n in names if n in value), None))
        for names in (("role", "from"), ("content", "value"))
    )
    if role is None or (content is None and not calls):
        raise ShapeError(f"{where} has no {'role' if role is None else 'content'}")
    said_by = text_in(value[role], f"{where}.{role}")
    if said_by not in ROLES:
        raise ShapeError(f"{where} has the role {printable(said_by)}; known are {', '.join(ROLES)}")
    # a message that calls tools may say nothing besides
    empty = content is None or (value[content] is None and calls)
    message = {"role": ROLES[said_by], "content": "" if empty else _content(value[content], f"{where}.{content}")}
    if calls and message["role"] == "assistant":
        message["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
    return message


def _tool_calls(value: Any, where: str) -> str:
    """Calls as OpenAI, LangChain or chat templates hold them; one a line."""
    if not isinstance(value, list | tuple):
        raise ShapeError(f"{where} is {kind_of(value)}, not a list")
    lines = []
    for index, call in enumerate(value):
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise ShapeError(f"{where}[{index}] names no function")
        arguments: Any = next((inner[key] for key in ("arguments", "args") if inner.get(key) is not None), {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError:
                raise ShapeError(f"{where}[{index}].arguments are not JSON") from None
        if not isinstance(arguments, Mapping):
            raise ShapeError(f"{where}[{index}].arguments are {kind_of(arguments)}, not an object")
        lines.append(call_json(inner["name"], dict(arguments)))
    return "\n".join(lines)


def _content(value: Any, where: str) -> str:
    if not isinstance(value, list):
        return text_in(value, where)
    texts: list[str] = []
    for index, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            what = printable(part.get("type")) if isinstance(part, Mapping) else kind_of(part)
            raise ShapeError(f"{where}[{index}] is a part of the type {what}; only text can be read")
        texts.append(text_in(part.get("text"), f"{where}[{index}].text"))
    return "".join(texts)
