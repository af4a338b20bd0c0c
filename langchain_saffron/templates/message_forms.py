"""Merging of messages for chat templates that lack a system role or demand strict alternation."""

from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]


def merged_forms(messages: list[Message]) -> Iterator[list[Message]]:
    """The conversation as it is, then ever more merged."""
    yield messages
    if len(joined := _joined(messages)) < len(messages):
        yield joined
    folded = _system_folded(messages)
    if folded is not None:
        yield folded
        if len(joined := _joined(folded)) < len(folded):
            yield joined


def _joined(messages: list[Message]) -> list[Message]:
    """Neighbours of the same role as one message."""
    result: list[Message] = []
    for message in messages:
        last = result[-1] if result else None
        if (
            last is not None
            and last["role"] == message["role"] != "tool"
            and not (last.get("tool_calls") or message.get("tool_calls"))
        ):
            result[-1] = {**last, "content": _paragraphs(last["content"], message["content"])}
        else:
            result.append(message)
    return result


def _system_folded(messages: list[Message]) -> list[Message] | None:
    """System texts at the head of the user's next turn; `None` if there are none, or no such turn."""
    result: list[Message] = []
    pending = ""
    for message in messages:
        if message["role"] == "system":
            pending = _paragraphs(pending, message["content"])
        elif message["role"] == "user" and pending:
            result.append({**message, "content": _paragraphs(pending, message["content"])})
            pending = ""
        else:
            result.append(message)
    return None if pending or len(result) == len(messages) else result


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
