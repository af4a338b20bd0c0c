"""From LangChain's messages to OpenAI's responses, whole and in chunks."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata

FINGERPRINT = f"saffron-{version('langchain-saffron')}"
# what OpenAI calls the ends of ours that it does not know
REASONS = {"refusal": "stop", "budget": "length"}


@dataclass(frozen=True)
class Heading:
    """What every piece of a response repeats.

    Attributes:
        object: Its kind.
        model: What the model is called.
        key: Tells responses apart.
        created: Seconds since 1970.
    """

    object: str
    model: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        """Of the response; by its beginning OpenAI's clients tell chats from completions."""
        return f"{'chatcmpl' if self.object.startswith('chat') else 'cmpl'}-{self.key}"

    def around(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A response, or a chunk of one."""
        head = {"id": self.id, "object": self.object, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": FINGERPRINT, "choices": choices, **more}


def chat_answer(message: AIMessage, model: str) -> dict[str, Any]:
    """A whole response."""
    thoughts = _thoughts(message.content)
    said = AIMessage(message.text, tool_calls=message.tool_calls)
    made = convert_to_openai_messages(said)
    assert isinstance(made, dict)
    calls = [*made.pop("tool_calls", ()), *filter(None, map(_spoiled, message.invalid_tool_calls))]
    body = {
        **made,
        "content": message.text or (None if calls else ""),
        "refusal": message.additional_kwargs.get("refusal"),
    }
    if calls:
        body["tool_calls"] = calls
    if thoughts:
        body["reasoning_content"] = thoughts
    choice = {
        "index": 0,
        "message": body,
        "logprobs": None,
        "finish_reason": finish_reason(message.response_metadata, bool(calls)),
    }
    heading = Heading("chat.completion", model)
    return heading.around([choice], usage=usage(message.usage_metadata), saffron=stats(message.response_metadata))


async def chat_chunks(
    chunks: AsyncIterator[AIMessageChunk], model: str, include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """A response in pieces.

    Args:
        chunks: The model's.
        model: What it is called.
        include_usage: Whether the last one says how many tokens there were.
    """
    heading = Heading("chat.completion.chunk", model)
    head: dict[str, Any] = {"role": "assistant"}
    called = False
    async for chunk in chunks:
        delta = _delta(chunk)
        called = called or "tool_calls" in delta
        if delta:
            yield heading.around([_choice({**head, **delta})])
            head = {}
        if chunk.usage_metadata is not None:
            reason = finish_reason(chunk.response_metadata, called)
            yield heading.around([_choice(head, reason)], saffron=stats(chunk.response_metadata))
            if include_usage:
                yield heading.around([], usage=usage(chunk.usage_metadata))


def finish_reason(metadata: dict[str, Any], called: bool) -> str:
    """Why an answer ended, in OpenAI's words.

    Args:
        metadata: The message's.
        called: Whether it calls tools.
    """
    reason = str(metadata.get("finish_reason", "stop"))
    return "tool_calls" if called and reason == "stop" else REASONS.get(reason, reason)


def stats(metadata: dict[str, Any]) -> dict[str, Any]:
    """What ours says besides: the end in its own words, reward and compute."""
    return {"finish_reason": metadata.get("finish_reason"), **metadata.get("saffron", {})}


def usage(counted: UsageMetadata | None) -> dict[str, Any] | None:
    """Tokens, as OpenAI counts them."""
    if counted is None:
        return None
    used: dict[str, Any] = {
        "prompt_tokens": counted["input_tokens"],
        "completion_tokens": counted["output_tokens"],
        "total_tokens": counted["total_tokens"],
        "prompt_tokens_details": {"cached_tokens": counted.get("input_token_details", {}).get("cache_read", 0)},
    }
    if (reasoning := counted.get("output_token_details", {}).get("reasoning")) is not None:
        used["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return used


def _choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _delta(chunk: AIMessageChunk) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if chunk.text:
        delta["content"] = chunk.text
    if thoughts := _thoughts(chunk.content):
        delta["reasoning_content"] = thoughts
    if refusal := chunk.additional_kwargs.get("refusal"):
        delta["refusal"] = refusal
    if chunk.tool_call_chunks:
        delta["tool_calls"] = [_call_piece(piece) for piece in chunk.tool_call_chunks]
    return delta


def _call_piece(piece: Any) -> dict[str, Any]:
    function = {"name": piece["name"]} if piece["name"] else {}
    head = {"id": piece["id"], "type": "function"} if piece["id"] else {}
    return {"index": piece["index"] or 0, **head, "function": {**function, "arguments": piece["args"] or ""}}


def _spoiled(call: Any) -> dict[str, Any] | None:
    """A call that was cut short, as OpenAI gives those out: its arguments are no whole JSON."""
    if not call["name"]:
        return None
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["args"] or ""}}


def _thoughts(content: Any) -> str:
    blocks = content if isinstance(content, list) else ()
    return "".join(block.get("reasoning", "") for block in blocks if isinstance(block, dict))
