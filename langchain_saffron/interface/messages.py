"""LangChain messages → turns: plain text by role, or a clear refusal. Knows no tokenizer and no template."""

from base64 import b64decode
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_saffron.errors import PromptError
from langchain_saffron.templates.message_forms import THOUGHTS
from langchain_saffron.templates.safe_encoder import replace_surrogates
from langchain_saffron.templates.tool_call_text import call_json, marked, turn_text

_ALIASES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
}
# How other providers repeat a message's tool calls inside its content.
_TOOL_CALL_BLOCKS = frozenset({"tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "function_call"})
# Documents as LangChain, and Anthropic, have them.
_DOCUMENTS = frozenset({"text-plain", "document", "file"})
# Thoughts are no part of what was said: the chat template decides which of them the model sees again.
_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})


@dataclass(frozen=True)
class TurnCall:
    """A tool call of an assistant.

    Attributes:
        name: The tool's.
        arguments: As an object; as text where the model wrote none that could be read.
        id: What the result refers to.
    """

    name: str
    arguments: dict[str, Any] | str
    id: str | None


@dataclass(frozen=True)
class Turn:
    """A normalised message.

    Attributes:
        role: system, user, assistant or tool.
        text: What it says, with lone surrogates, which no tokenizer can encode, replaced by U+FFFD.
        tool_calls: Of an assistant.
        tool_call_id: Which call a tool's result answers.
        tool_name: The tool that answered, if the message or the call says so.
        thoughts: What an assistant thought before it said that.
    """

    role: str
    text: str
    tool_calls: tuple[TurnCall, ...] = ()
    tool_call_id: str | None = None
    tool_name: str | None = None
    thoughts: str = ""

    def as_template_message(self) -> dict[str, Any]:
        """The form that chat templates read."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.thoughts:
            message[THOUGHTS] = self.thoughts
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    **({} if call.id is None else {"id": call.id}),
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_name is not None:
            message["name"] = self.tool_name
        return message

    def as_reward_turns(self) -> list[tuple[str, str]]:
        """The turn as the reward model reads it, which knows system, user and assistant only.

        A tool's result is input to the model, so it counts as a user's; tool calls are written out, all as text and as
        `training.corpus.turns` does.
        """
        calls = [marked(call_json(call.name, call.arguments)) for call in self.tool_calls]
        return [("user" if self.role == "tool" else self.role, turn_text(self.text, calls))]


def to_turns(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Normalises a conversation.

    Raises:
        PromptError: It is empty, or has a message or content block that a text model cannot take.
    """
    if not messages:
        raise PromptError("there are no messages: pass at least one")
    names: dict[str | None, str] = {}
    turns = []
    for message in messages:
        turn = _to_turn(message, names)
        names |= {call.id: call.name for call in turn.tool_calls if call.id is not None}
        turns.append(turn)
    return turns


def _to_turn(message: BaseMessage, names: dict[str | None, str]) -> Turn:
    if isinstance(message, AIMessage):
        return _assistant(message)
    if isinstance(message, ToolMessage):
        name = message.name or names.get(message.tool_call_id)
        return Turn("tool", _text(message), (), message.tool_call_id, name)
    if isinstance(message, SystemMessage):
        return Turn("system", _text(message))
    if isinstance(message, HumanMessage):
        return Turn("user", _text(message))
    if isinstance(message, ChatMessage):
        # A role is written into the prompt by the template, next to control tokens: only known ones are safe.
        role = _ALIASES.get(message.role.lower())
        if role is None:
            raise PromptError(f"unknown role {message.role!r}: use system, user or assistant")
        return Turn(role, _text(message))
    raise PromptError(f"messages of type {type(message).__name__} cannot be part of a prompt")


def _assistant(message: AIMessage) -> Turn:
    """With the calls that could not be read as well: the model should see what it wrote."""
    calls = [TurnCall(call["name"], call["args"], call["id"]) for call in message.tool_calls]
    skipped = _THOUGHTS | _TOOL_CALL_BLOCKS if calls or message.invalid_tool_calls else _THOUGHTS
    text = _text(message, skipped)
    # some keep a refusal beside the content: OpenAI's models, and streams of content blocks
    refusal = message.additional_kwargs.get("refusal")
    if isinstance(refusal, str) and not text.endswith(refusal := replace_surrogates(refusal)):
        text += refusal
    for spoiled in message.invalid_tool_calls:
        written = replace_surrogates(spoiled["args"] or "")
        if spoiled["name"]:
            calls.append(TurnCall(spoiled["name"], written, spoiled["id"]))
        else:
            text = "\n".join(filter(None, (text, written)))
    return Turn("assistant", text, tuple(calls), thoughts=_thoughts(message))


def _thoughts(message: AIMessage) -> str:
    """What stands in its blocks of thoughts or, as some providers have it, beside its content."""
    blocks = message.content if isinstance(message.content, list) else []
    said = [_thought(block) for block in blocks if isinstance(block, dict) and block.get("type") in _THOUGHTS]
    beside = message.additional_kwargs.get("reasoning_content")
    if not any(said) and isinstance(beside, str):
        said = [beside]
    return replace_surrogates("\n\n".join(filter(None, said)))


def _thought(block: dict[str, Any]) -> str:
    """The thought of a block, in whatever provider's form; nothing where it is encrypted."""
    for name in ("reasoning", "thinking", "reasoning_content"):
        value = block.get(name)
        text = value.get("text") if isinstance(value, dict) else value
        if isinstance(text, str):
            return text
    return ""


def _text(message: BaseMessage, skipped: Collection[str] = ()) -> str:
    content = message.content
    if isinstance(content, str):
        return replace_surrogates(content)
    return replace_surrogates("".join(_block_text(block, message, skipped) for block in content))


def _block_text(block: Any, message: BaseMessage, skipped: Collection[str]) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type") if isinstance(block, dict) else type(block).__name__
    if kind == "text" and isinstance(block.get("text"), str):
        return block["text"]
    if kind == "refusal" and isinstance(message, AIMessage) and isinstance(block.get("refusal"), str):
        return block["refusal"]
    if kind in skipped:
        return ""
    if kind in _DOCUMENTS and (written := _document_text(block)) is not None:
        return written
    raise PromptError(
        f"content block of type {kind!r} in a {message.type} message: this is a text model, "
        "which takes strings and blocks of text only"
    )


def _document_text(block: dict[str, Any]) -> str | None:
    """The text of a document that is some, below its title and context; `None` where it lies elsewhere."""
    source = block.get("source")
    inner = source if isinstance(source, dict) else block
    text = next((inner[key] for key in ("text", "data") if isinstance(inner.get(key), str)), None)
    if isinstance(source, dict) and isinstance(source.get("content"), str | list):
        parts = [source["content"]] if isinstance(source["content"], str) else source["content"]
        known = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | dict)]
        text = "".join(map(str, known)) if all(isinstance(part, str) for part in known) else None
    if inner.get("type") == "base64" or (text is None and isinstance(block.get("base64"), str)):
        kind = inner.get("media_type") or block.get("mime_type") or "text/plain"
        try:
            text = b64decode(text or block["base64"], validate=True).decode() if kind.startswith("text/") else None
        except ValueError:
            return None
    if text is None:
        return None
    about = [block[key] for key in ("title", "context") if isinstance(block.get(key), str)]
    return "\n".join([*about, text])
