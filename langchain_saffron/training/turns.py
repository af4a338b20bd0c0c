"""A turn of a corpus as a reward model reads it: as text in a prompt, and as ids where it is the answer to score."""

from langchain_saffron.instructions import CALL_END, CALL_START
from langchain_saffron.models.plain_text import SafeEncoder, replace_surrogates
from langchain_saffron.training.shapes import Message


def turn_text(message: Message) -> str:
    """What a message says; its tool calls in the Hermes form, as the chat model writes them for the reward model."""
    calls = [f"{CALL_START}\n{call}\n{CALL_END}" for call in _calls(message)]
    return "\n".join([message["content"], *calls] if message["content"].strip() or not calls else calls)


def response_ids(encoder: SafeEncoder, message: Message) -> list[int]:
    """Ids of an answer. The markers of its tool calls are control tokens where the tokenizer has them as such.

    That holds for calls that a record gives as calls only: a marker in a text is nothing but characters, as everywhere.
    """
    start, end = encoder.name_controls(f"{CALL_START}\n"), encoder.name_controls(f"\n{CALL_END}")
    calls = [f"{start}{replace_surrogates(call)}{end}" for call in _calls(message)]
    content = replace_surrogates(message["content"])
    return encoder.encode("\n".join([content, *calls] if content.strip() or not calls else calls))


def _calls(message: Message) -> list[str]:
    return message.get("tool_calls", "").splitlines()
