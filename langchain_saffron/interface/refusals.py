"""Refusals in LangChain's words: content blocks that its parsers and `ModelRefusalMiddleware` look for."""

from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock

try:
    from langchain_core.exceptions import ModelRefusalError
except ImportError:  # before langchain-core 1.7.5, which has no such blocks either
    ModelRefusalError = None  # type: ignore[assignment,misc]

PROVIDER = "saffron"


def refusal_kwargs(text: str) -> dict[str, Any]:
    """What `additional_kwargs` of a message (or of one of its chunks) holds that refuses with this text at its end."""
    return {"refusal": text}


def content_blocks(message: AIMessage) -> list[ContentBlock]:
    """The blocks of a message of ours that refuses: what the model had said, then the refusal as a block of its own.

    Those of a whole message that was streamed lose the numbers by which its pieces came together.

    Args:
        message: One with `PROVIDER` as its `model_provider`.

    Raises:
        NotImplementedError: It refuses nothing: LangChain then reads it as it reads any message.
    """
    whole = not isinstance(message, AIMessageChunk) or message.chunk_position == "last"
    if whole and isinstance(message.content, list) and any(map(_is_numbered, message.content)):
        plain = [_without_number(block) if _is_numbered(block) else block for block in message.content]
        return message.model_copy(update={"content": plain}).content_blocks
    refusal = message.additional_kwargs.get("refusal")
    if refusal is None or ModelRefusalError is None:
        raise NotImplementedError
    content = _without_end(message.content, refusal)
    others = {name: value for name, value in message.additional_kwargs.items() if name != "refusal"}
    said = message.model_copy(update={"content": content, "additional_kwargs": others})
    category = message.response_metadata.get("refusal_category")
    extras = {"extras": {"category": category}} if category else {}
    return [*said.content_blocks, cast(ContentBlock, {"type": "refusal", "refusal": refusal, **extras})]


def _without_end(content: Any, refusal: str) -> Any:
    """What a message says before it refuses, thoughts included."""
    if isinstance(content, str):
        return content.removesuffix(refusal)
    last = content[-1] if content else None
    if isinstance(last, dict) and isinstance(last.get("text"), str):
        text = last["text"].removesuffix(refusal)
        return [*content[:-1], *([{**last, "text": text}] if text else [])]
    return content


def _is_numbered(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in ("text", "reasoning") and "index" in block


def _without_number(block: Any) -> Any:
    return {name: value for name, value in block.items() if name != "index"}


register_translator(PROVIDER, content_blocks, content_blocks)
