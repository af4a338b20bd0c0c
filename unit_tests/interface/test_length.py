"""Prompts far beyond the context are refused before they are rendered; what fits never is."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_saffron import ChatSaffron, SaffronLLM
from langchain_saffron.errors import ContextOverflowError
from langchain_saffron.interface.length import CHARACTERS_A_TOKEN, refuse_beyond
from langchain_saffron.templates.chat_template import ChatTemplate

TOOL = {"type": "function", "function": {"name": "f", "description": "x " * 400_000, "parameters": {}}}
LONG = {
    "words": ([HumanMessage("word " * 200_000)], ()),
    "a prefill": ([HumanMessage("Hi"), AIMessage("a " * 400_000)], ()),
    "many messages": ([SystemMessage("Hi")] * 20_000 + [HumanMessage("x")], ()),
    "a tool": ([HumanMessage("Hi")], (TOOL,)),
}


@pytest.mark.parametrize("case", LONG)
def test_a_prompt_far_too_long_is_never_rendered(case, monkeypatch):
    chat = ChatSaffron(max_tokens=5)
    messages, tools = LONG[case]
    chat.renderer()

    def render(*arguments):
        raise AssertionError("it was rendered")

    monkeypatch.setattr(ChatTemplate, "render", render)
    with pytest.raises(ContextOverflowError, match=r"more than [\d,]+ tokens, but the context has 2,048"):
        chat.invoke(messages, tools=list(tools))


def test_nor_is_that_of_an_llm():
    with pytest.raises(ContextOverflowError, match="more than"):
        SaffronLLM(max_tokens=5).invoke("word " * 200_000)


def test_counting_refuses_nothing():
    chat = ChatSaffron()
    assert chat.get_num_tokens_from_messages([HumanMessage("word " * 20_000)]) > 20_000


def test_it_counts_only_what_may_be_too_long():
    counted: list[str] = []

    def encode(text: str) -> list[int]:
        counted.append(text)
        return [1] * (len(text) // 20)

    # twenty characters a token: many characters, few tokens
    refuse_beyond(100, encode, ["x" * 100 * CHARACTERS_A_TOKEN])
    assert not counted
    refuse_beyond(100, encode, ["x" * 1500])
    assert "".join(counted) == "x" * 1500
    counted.clear()
    with pytest.raises(ContextOverflowError):
        refuse_beyond(100, encode, ["x" * 10**7])
    assert len("".join(counted)) < 10**5
