"""What is written into prompts besides what users say: the form of answers in JSON and of tool calls. Pure text."""

from __future__ import annotations

import json
from typing import Any

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_SCHEMA = "Answer with a JSON object that fits this schema:\n{schema}"


def schema_instruction(schema: dict[str, Any]) -> str:
    """The instruction that goes with a JSON schema, whose form the grammar enforces."""
    return _SCHEMA.format(schema=json.dumps(schema, ensure_ascii=False))


def call_json(name: str, arguments: dict[str, Any]) -> str:
    """A tool call in the Hermes form, without its markers."""
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, default=str)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call in the Hermes form."""
    return f"{CALL_START}\n{call_json(name, arguments)}\n{CALL_END}"
