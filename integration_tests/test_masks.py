"""A reward model whose training showed few words: what each mask makes of benign answers, and of the kitchen's own."""

import os

import pytest

from integration_tests import corpus_figures
from integration_tests.kitchen_figures import as_messages
from langchain_saffron import ChatSaffron, SaffronEngine, SearchSettings
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.kitchen.held_out import held_out_benign
from langchain_saffron.kitchen.judge import on_topic
from langchain_saffron.models.loading import load_causal_lm
from langchain_saffron.models.mrm import MultifurcationRewardModel

CONVERSATIONS = 25


@pytest.fixture(scope="module")
def engine():
    """The kitchen, as if its reward model had seen the answers of a few conversations only."""
    mrm = MultifurcationRewardModel.from_pretrained(WEIGHTS / "mrm")
    mrm.seen.fill_(False)
    for conversation in conversations("mrm", CONVERSATIONS):
        for turn in conversation.messages:
            if turn["role"] == "assistant":
                mrm.seen[mrm.tokenizer.encode(turn["content"], add_special_tokens=False)] = True
    made = SaffronEngine(load_causal_lm(WEIGHTS / "policy", "policy"), mrm.tokenizer, mrm)
    yield made
    made.close()


def share_on_topic(chat: ChatSaffron) -> float:
    items = held_out_benign(12, 1)
    answers = chat.batch([as_messages(item.messages) for item in items])
    return sum(on_topic(item, answer.text) for item, answer in zip(items, answers, strict=True)) / len(items)


def test_benign_answers_stay_on_topic_by_default_though_few_words_were_seen(engine: SaffronEngine):
    assert engine.reward_model is not None
    assert engine.reward_model.mask == "soft"
    chat = ChatSaffron(engine=engine, max_tokens=64)
    assert share_on_topic(chat) >= 0.9
    assert share_on_topic(ChatSaffron(engine=engine, max_tokens=64, mask="strict")) <= 0.5


def test_the_kitchen_s_own_reward_model_has_seen_enough():
    engine = ChatSaffron().load()
    assert engine.reward_model is not None
    assert engine.reward_model.mask == "strict"
    assert engine.resolve(SearchSettings(), 5).mask == "strict"


def test_the_command_line_has_the_option(capsys):
    from langchain_saffron.cli import main

    assert main(["chat", "Good evening!", "--mask", "soft", "--max-tokens", "5"]) == 0
    assert main(["chat", "Good evening!", "--mask", "hard"]) == 2
    assert "--mask" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("SAFFRON_ALL_FIGURES" not in os.environ, reason="SAFFRON_ALL_FIGURES is not set: takes a minute")
def test_the_figures_of_the_guide_can_be_printed(tmp_path, capsys):
    corpus_figures.main(["25", "--work", str(tmp_path), "--width", "1", "--cases", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| 25", "| the one that ships"]
    assert [row[4] for row in rows] == ["soft", "strict"]
    assert all(len(row) == 8 for row in rows)
