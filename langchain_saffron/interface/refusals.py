"""Refusals in LangChain's words: content blocks that its parsers and `ModelRefusalMiddleware` look for."""

from typing import Any

from langchain_core.messages import AIMessage
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

    Args:
        message: One with `PROVIDER` as its `model_provider`.

    Raises:
        NotImplementedError: It refuses nothing: LangChain then reads it as it reads any message.
    """
    refusal = message.additional_kwargs.get("refusal")
    if refusal is None:
        raise NotImplementedError
    content = message.content.removesuffix(refusal) if isinstance(message.content, str) else message.content
    others = {name: value for name, value in message.additional_kwargs.items() if name != "refusal"}
    said = message.model_copy(update={"content": content, "additional_kwargs": others})
    return [*said.content_blocks, {"type": "refusal", "refusal": refusal}]


if ModelRefusalError is not None:
    register_translator(PROVIDER, content_blocks, content_blocks)
