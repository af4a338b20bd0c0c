"""Conversations in the forms that one chat template or another demands: merged turns, tool calls written otherwise."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

# what a message of ours calls an assistant's thoughts
THOUGHTS = "reasoning_content"
# where a template reads them as a part of the content
BLOCK = "content"

_SHORT = 9


def merged_forms(messages: list[Message], tools: bool = False) -> Iterator[list[Message]]:
    """The conversation as it is, then ever more merged.

    Args:
        messages: The conversation.
        tools: Whether there are any: some templates show them in a system message only, so one that is empty is tried.
    """
    yield messages
    if len(joined := _joined(messages)) < len(messages):
        yield joined
    folded = _system_folded(messages)
    if folded is not None:
        yield folded
        if len(joined := _joined(folded)) < len(folded):
            yield joined
    if tools and messages[0]["role"] != "system":
        yield [{"role": "system", "content": ""}, *messages]


def call_forms(messages: list[Message]) -> Iterator[list[Message]]:
    """The conversation as it is, then with its tool calls in other forms.

    Arguments are objects, or else JSON as text; ids are as given, or else as short as Mistral's templates want them;
    several calls of one message stay together, or else each has a message of its own before its result.
    """
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    yield messages
    if not calls:
        return
    split = _one_call_each(messages)
    for form in (messages,) if len(split) == len(messages) else (messages, split):
        for short in (False, True):
            for as_text in (False, True):
                if form is split or short or as_text:
                    yield [_message(message, short, as_text) for message in form]


def with_thoughts(messages: list[Message], field: str | None) -> list[Message]:
    """The conversation with thoughts where a template reads them.

    Args:
        messages: With thoughts under `THOUGHTS`.
        field: Their name there; `BLOCK` for a part of the content, `None` for nowhere.
    """
    return [_with_thoughts(message, field) if THOUGHTS in message else message for message in messages]


def _with_thoughts(message: Message, field: str | None) -> Message:
    made = {name: value for name, value in message.items() if name != THOUGHTS}
    if field is None:
        return made
    thoughts, content = message[THOUGHTS], message["content"]
    if field != BLOCK:
        return {**made, field: thoughts}
    text = [{"type": "text", "text": content}] if content and isinstance(content, str) else list(content)
    return {**made, "content": [{"type": "thinking", "thinking": thoughts}, *text]}


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
            if thoughts := _paragraphs(last.get(THOUGHTS, ""), message.get(THOUGHTS, "")):
                result[-1][THOUGHTS] = thoughts
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


def _message(message: Message, short: bool, as_text: bool) -> Message:
    made = dict(message)
    if "tool_calls" in message:
        made["tool_calls"] = [_call(call, short, as_text) for call in message["tool_calls"]]
    if short and "tool_call_id" in message:
        made["tool_call_id"] = _shortened(message["tool_call_id"])
    return made


def _call(call: dict[str, Any], short: bool, as_text: bool) -> dict[str, Any]:
    made = dict(call)
    if short:
        made["id"] = _shortened(call.get("id", ""))
    arguments = call["function"]["arguments"]
    if as_text and not isinstance(arguments, str):
        made["function"] = {**call["function"], "arguments": json.dumps(arguments, ensure_ascii=False, default=str)}
    return made


def _shortened(identifier: str) -> str:
    if len(identifier) == _SHORT and identifier.isalnum():
        return identifier
    return hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT]


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Each call in a message of its own, followed by its result; what is said comes with the first."""
    made: list[Message] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            made.append(message)
            continue
        end = position
        while end < len(messages) and messages[end]["role"] == "tool":
            end += 1
        results = messages[position:end]
        position = end
        for index, call in enumerate(calls):
            first = {**message, "tool_calls": [call]}
            made.append({**with_thoughts([first], None)[0], "content": ""} if index else first)
            mine = [r for r in results if "id" in call and r.get("tool_call_id") == call["id"]]
            made += mine
            results = [result for result in results if result not in mine]
        made += results
    return made
