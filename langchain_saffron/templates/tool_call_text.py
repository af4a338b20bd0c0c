"""What is written into prompts besides what users say: the form of answers in JSON and of tool calls. Pure text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_SCHEMA = "Answer with a JSON object that fits this schema:\n{schema}"


def schema_instruction(schema: dict[str, Any]) -> str:
    """The instruction that goes with a JSON schema, whose form the grammar enforces."""
    return _SCHEMA.format(schema=json.dumps(schema, ensure_ascii=False))


def call_json(name: str, arguments: dict[str, Any] | str) -> str:
    """A tool call in the Hermes form, without its markers.

    Args:
        name: The tool's.
        arguments: As an object or, where they are none, as they were written.
    """
    if isinstance(arguments, str):
        return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}'
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, default=str)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call in the Hermes form."""
    return marked(call_json(name, arguments))


def marked(call: str, start: str = CALL_START, end: str = CALL_END) -> str:
    """A call's JSON between its markers."""
    return f"{start}\n{call}\n{end}"


def turn_text(content: str, calls: Sequence[str]) -> str:
    """What a turn says, and below it the calls that it makes.

    Args:
        content: Its text.
        calls: Its calls as text, with their markers.
    """
    return "\n".join([content, *calls] if content.strip() or not calls else calls)
