"""A guard of another tokenizer: its rewards are those of every prefix's text by itself."""

from functools import cache

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from langchain_saffron import ProcessRewardModel
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.errors import ContextOverflowError
from langchain_saffron.models.guard_function import conversation_guard
from langchain_saffron.models.text_prefixes import TextPrefixes
from langchain_saffron.models.text_prm import TextRewardModel
from langchain_saffron.models.token_lots import added_size, in_lots
from langchain_saffron.templates.guard_prompt import GuardPrompt
from langchain_saffron.templates.safe_encoder import safe_encoder
from unit_tests.builders import byte_level_tokenizer, metaspace_tokenizer
from unit_tests.families import FAMILIES
from unit_tests.models.scoring import SMALL, USUAL, forwards, sizes
from unit_tests.tiny_models import random_model, tiny_tokenizer

POLICY = tiny_tokenizer()
TURNS = [("user", "How do I cook saffron rice?")]
ANSWERS = ["Wash the rice, add salt 🦀. Grüße, 你好!", "Wash the rice.", "x"]


@cache
def guards():
    """The kitchen's PRM, a random Llama with a Llama 3's tokens, and the same with a head."""
    tokenizer = byte_level_tokenizer(340)
    model = random_model("llama", 3, vocab_size=len(tokenizer) + 8)
    asked = GuardPrompt.of_strings("Q: ", "\nA:", "\nSafe?", safe=5, unsafe=9)
    config = FAMILIES["llama"]()
    config.vocab_size, config.num_labels, config.pad_token_id = len(tokenizer) + 8, 1, 0
    torch.manual_seed(5)
    head = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    return {
        "kitchen": ProcessRewardModel.from_pretrained(KITCHEN / "prm"),
        "llama": ProcessRewardModel.from_pretrained(model, asked, tokenizer=tokenizer),
        "classifier": ProcessRewardModel.from_pretrained(head, tokenizer=tokenizer),
    }


def ids(text, tokenizer=POLICY):
    return safe_encoder(tokenizer).encode(text)


def by_itself(guard, asked, response, policy=POLICY):
    """Every prefix decoded, encoded and scored alone, by the guard's own method."""
    rewards = []
    for end in range(1, len(response) + 1):
        text = policy.decode(response[:end])
        while not text or text.endswith("\ufffd"):
            end += 1
            text = policy.decode(response[:end])
        rewards.append(guard.prefix_rewards(asked, ids(text, guard.tokenizer))[-1])
    return torch.stack(rewards)


@pytest.mark.parametrize("kind", ["kitchen", "llama", "classifier"])
def test_rewards_are_those_of_each_prefix_as_text(kind, monkeypatch):
    guard = guards()[kind]
    model = TextRewardModel(guard, POLICY)
    asked = model.prompt_ids(TURNS)
    assert asked == guard.prompt_ids(TURNS)
    responses = [ids(text) for text in ANSWERS]
    expected = [by_itself(guard, asked, response) for response in responses]
    assert expected[0].std() > 100 * 1e-4
    for constants in (USUAL, SMALL) if kind != "kitchen" else (USUAL,):
        sizes(monkeypatch, *constants)
        for found, wanted in zip(model.score([(asked, one) for one in responses]), expected, strict=True):
            assert torch.allclose(found, wanted, atol=1e-4, rtol=0)
        assert guard.decoder.forest.used == 0
    # bytes of characters that are none yet
    assert model.completed >= TextPrefixes.of(POLICY, responses[0]).completed > 0
    assert model.skipped == 0


def test_a_policy_whose_words_begin_with_a_blank():
    policy = metaspace_tokenizer()
    guard = guards()["llama"]
    model = TextRewardModel(guard, policy)
    asked, response = model.prompt_ids(TURNS), ids("Add saffron 🦀 and salt", policy)
    wanted = by_itself(guard, asked, response, policy)
    assert torch.allclose(model.prefix_rewards(asked, response), wanted, atol=1e-4, rtol=0)
    assert model.completed > 0


def test_prefixes_that_begin_alike_are_read_once():
    guard = guards()["llama"]
    model = TextRewardModel(guard, POLICY)
    asked, response = model.prompt_ids(TURNS), ids("Wash the rice, then add saffron. " * 2)
    text = ids(POLICY.decode(response), guard.tokenizer)
    with forwards(guard) as rows:
        model.score([(asked, response)])
    separately = sum(len(asked) + i * len(text) // len(response) + len(guard.suffix) for i in range(len(response)))
    assert sum(rows) < len(asked) + 3 * len(text) + len(response) * len(guard.suffix) < separately / 2


def test_a_character_that_never_ends_has_no_reward():
    model = TextRewardModel(guards()["llama"], POLICY)
    whole = ids("so 🦀")
    pieces = TextPrefixes.of(POLICY, whole)
    assert pieces.completed >= 1
    cut = TextPrefixes.of(POLICY, whole[:-1])
    assert (cut.completed, cut.skipped) == (0, pieces.completed)
    rewards = model.prefix_rewards(model.prompt_ids(TURNS), whole[:-1])
    assert rewards.isnan().tolist() == [text is None for text in cut.texts]
    assert model.skipped == cut.skipped


def test_functions_read_whole_characters():
    read = []

    @conversation_guard
    def score(conversations):
        read.extend(messages[-1]["content"] for messages in conversations)
        return [float(len(messages[-1]["content"])) for messages in conversations]

    model = TextRewardModel(ProcessRewardModel.from_function(score, POLICY), POLICY)
    rewards = model.prefix_rewards(model.prompt_ids(TURNS), ids("so 🦀!"))
    assert read[-1] == "so 🦀!"
    assert not any("\ufffd" in text for text in read)
    assert rewards[-2:].tolist() == [4.0, 5.0]


def test_what_is_too_long_for_the_guard_is_refused():
    model = TextRewardModel(guards()["llama"], POLICY)
    long = ids("rice and " * 2000)
    with pytest.raises(ContextOverflowError):
        model.check_length(model.prompt_ids(TURNS), long)


def test_lots_hold_texts_that_share_their_beginning():
    texts = [[1, 2, 3, 4][:i] for i in range(1, 5)] + [[1, 2, 3, 9, 9], [7] * 20]
    lots = list(in_lots(texts, 8, added_size))
    assert [len(lot) for lot in lots] == [5, 1]
    assert [text for lot in lots for text in lot] == texts
