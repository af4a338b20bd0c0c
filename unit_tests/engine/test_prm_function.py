"""Functions that steer Best-of-N, Rebase and DeAL: what they are asked, and whom their failures concern."""

import threading
from random import Random

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_saffron import ChatSaffron, SaffronEngine, SearchSettings
from langchain_saffron.errors import EngineFailedError, SettingsError
from langchain_saffron.models.guard_function import conversation_guard
from langchain_saffron.models.prm import ProcessRewardModel
from unit_tests.builders import CHATML
from unit_tests.tiny_models import random_model, tiny_tokenizer

SEARCHES = ("best_of_n", "rebase", "deal")
PROMPT = [5, 6, 7, 8]


def engine_with(function) -> SaffronEngine:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    prm = ProcessRewardModel.from_function(function, tokenizer, "mine")
    return SaffronEngine(random_model("llama"), tokenizer, process_reward_model=prm)


def settings(search: str, **changes) -> SearchSettings:
    return SearchSettings(search=search, **{"width": 3, "max_tokens": 6, "seed": 3, "top_p": 0.95, **changes})


@pytest.mark.parametrize("search", SEARCHES)
def test_a_function_chooses(search: str):
    asked: list[tuple[str, str]] = []

    def reward(prompt: str, answer: str) -> float:
        asked.append((prompt, answer))
        return Random(answer).gauss(0, 3)

    engine = engine_with(reward)
    result = engine.generate(PROMPT, settings=settings(search))
    assert {prompt for prompt, _ in asked} == {engine.tokenizer.decode(PROMPT)}
    said = [token for token in result.token_ids if token not in engine.end_tokens]
    final = engine.tokenizer.decode(said)
    assert final in [answer for _, answer in asked]
    assert result.reward == pytest.approx(Random(final).gauss(0, 3), abs=1e-5)
    assert result.stats.reward_calls == len(asked) > 0
    if search == "best_of_n":
        assert len(asked) == 3
        assert result.reward == pytest.approx(max(Random(answer).gauss(0, 3) for _, answer in asked), abs=1e-5)
    engine.close()


def test_conversations_reach_it_through_the_chat_model():
    heard: list[list[dict[str, str]]] = []

    @conversation_guard
    def score(conversations):
        heard.extend(conversations)
        return [1.0] * len(conversations)

    engine = engine_with(score)
    chat = ChatSaffron(engine=engine, search="best_of_n", width=2, max_tokens=4, seed=1)
    answer = chat.invoke([HumanMessage("the quick"), AIMessage("fox"), HumanMessage("and?"), AIMessage("the lazy")])
    assert [message["content"] for message in heard[0][:-1]] == ["the quick", "fox", "and?"]
    last = [messages[-1] for messages in heard]
    assert {message["role"] for message in last} == {"assistant"}
    assert all(message["content"].startswith("the lazy") for message in last)
    assert any(message["content"] == "the lazy" + answer.text for message in last)
    with pytest.raises(SettingsError, match="mine scores conversations"):
        engine.generate(PROMPT, settings=settings("best_of_n"))
    engine.close()


def test_whoever_it_fails_for_fails_alone():
    def reward(prompt: str, answer: str) -> float:
        if prompt == bad:
            raise ConnectionError("no service")
        return 1.0

    engine = engine_with(reward)
    prompts = [PROMPT, [9, 10, 11], [12, 13]]
    bad = engine.tokenizer.decode(prompts[1])
    found: dict[int, object] = {}

    def ask(i: int) -> None:
        try:
            found[i] = engine.generate(prompts[i], settings=settings("rebase"))
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(found[1], EngineFailedError)
    assert "no service" in str(found[1])
    assert found[0].reward == found[2].reward == 1.0
    assert engine.generate(PROMPT, settings=settings("deal")).reward == 1.0
    engine.close()


def test_a_plain_function_can_be_named_when_the_engine_is_loaded():
    engine = SaffronEngine.from_pretrained(process_reward_model=lambda prompt, answer: float(len(answer)))
    result = engine.generate(PROMPT, settings=settings("best_of_n", max_tokens=3))
    assert result.reward == len(engine.tokenizer.decode(result.token_ids, skip_special_tokens=True))
    engine.close()
