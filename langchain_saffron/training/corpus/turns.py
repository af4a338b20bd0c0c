"""A turn of a corpus as a reward model reads it: as text in a prompt, and as ids where it is the answer to score."""

from langchain_saffron.templates import tool_call_text as instructions
from langchain_saffron.templates.safe_encoder import SafeEncoder, replace_surrogates
from langchain_saffron.templates.tool_call_text import CALL_END, CALL_START
from langchain_saffron.training.corpus.messages import Message


def turn_text(message: Message) -> str:
    """What a message says; its tool calls in the Hermes form, as the chat model writes them for the reward model."""
    return instructions.turn_text(message["content"], [instructions.marked(call) for call in _calls(message)])


def response_ids(encoder: SafeEncoder, message: Message) -> list[int]:
    """Ids of an answer. The markers of its tool calls are control tokens where the tokenizer has them as such.

    That holds for calls that a record gives as calls only: a marker in a text is nothing but characters, as everywhere.
    """
    start, end = encoder.name_controls(CALL_START), encoder.name_controls(CALL_END)
    calls = [instructions.marked(replace_surrogates(call), start, end) for call in _calls(message)]
    return encoder.encode(instructions.turn_text(replace_surrogates(message["content"]), calls))


def _calls(message: Message) -> list[str]:
    # not `splitlines`: JSON may hold other line separators as they are
    return [call for call in message.get("tool_calls", "").split("\n") if call]
