"""Parts of conversations are counted, and documents that are text are read."""

from base64 import b64encode
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages

from langchain_saffron import ChatSaffron, SaffronEngine
from langchain_saffron.errors import PromptError
from langchain_saffron.interface.messages import to_turns
from unit_tests.builders import CHATML
from unit_tests.tiny_models import random_engine

CALL: Any = {"name": "search", "args": {"q": "soup"}, "id": "1", "type": "tool_call"}
MESSAGES = [
    SystemMessage("Be brief."), HumanMessage("Find soup."), AIMessage("", tool_calls=[CALL]),
    ToolMessage("a soup", tool_call_id="1"), AIMessage("Found."), HumanMessage("Thanks. " * 20),
]  # fmt: skip


@pytest.fixture(scope="module")
def chat() -> ChatSaffron:
    engine: SaffronEngine = random_engine("qwen3")
    return ChatSaffron(engine=engine, chat_template=CHATML, tool_format="hermes", effort="off")


def test_any_part_of_a_conversation_is_counted(chat: ChatSaffron):
    for start in range(len(MESSAGES)):
        for end in range(start + 1, len(MESSAGES) + 1):
            assert chat.get_num_tokens_from_messages(MESSAGES[start:end]) > 0
    assert chat.get_num_tokens_from_messages(MESSAGES[:3]) < chat.get_num_tokens_from_messages(MESSAGES)
    room = chat.get_num_tokens_from_messages(MESSAGES[:5])
    assert trim_messages(MESSAGES, token_counter=chat, max_tokens=room, strategy="first", end_on="ai") == MESSAGES[:5]
    assert chat.get_num_tokens_from_messages([]) == 0


@pytest.mark.parametrize("strategy", ["first", "last"])
def test_messages_are_trimmed_to_whatever_room_there_is(chat: ChatSaffron, strategy: str):
    """Where parts of messages may stay, LangChain also asks how many tokens no messages are."""
    for room in (0, 1, 10, 40):
        kept = trim_messages(MESSAGES, token_counter=chat, max_tokens=room, strategy=strategy, allow_partial=True)
        assert chat.get_num_tokens_from_messages(kept) <= room


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "text-plain", "text": "Soup.", "mime_type": "text/plain"}, "Soup."),
        ({"type": "text-plain", "base64": b64encode("Süp".encode()).decode(), "mime_type": "text/plain"}, "Süp"),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Soup."}, "title": "A book"}, "A book\nSoup."),  # noqa: E501
        ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "Soup."}]}}, "Soup."),
        ({"type": "file", "source_type": "text", "text": "Soup.", "mime_type": "text/plain"}, "Soup."),
    ],
)  # fmt: skip
def test_documents_of_text_are_read(block: dict[str, Any], text: str):
    (turn,) = to_turns([HumanMessage([{"type": "text", "text": "Read: "}, block])])
    assert turn.text == f"Read: {text}"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
        {"type": "text-plain", "url": "https://a.b/c", "mime_type": "text/plain"},
        {"type": "file", "base64": "AAAA", "mime_type": "application/pdf"},
        {"type": "text-plain", "base64": "no base64", "mime_type": "text/plain"},
    ],
)
def test_other_documents_are_refused(block: dict[str, Any]):
    with pytest.raises(PromptError, match="this is a text model"):
        to_turns([HumanMessage([block])])
