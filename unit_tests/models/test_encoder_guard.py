"""An encoder as a guard: its rewards are those of transformers' own pipeline of the same pair of texts."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.encoder_guard import EncoderGuard
from langchain_saffron.models.text_prm import TextRewardModel
from langchain_saffron.training.guards import load_guard
from unit_tests.builders import byte_level_tokenizer
from unit_tests.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    def encoder(*labels):
        directory = tmp_path_factory.mktemp("encoder")
        tokenizer = byte_level_tokenizer(340)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=64, id2label=dict(enumerate(labels)), num_labels=len(labels), initializer_range=0.5,
        )  # fmt: skip
        torch.manual_seed(1)
        BertForSequenceClassification(config).eval().save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    return encoder


def talk(answer):
    return [{"role": "user", "content": "boil rice?"}, {"role": "assistant", "content": answer}]


def logits(directory, answer):
    model = BertForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = byte_level_tokenizer(340)
    with torch.inference_mode():
        return model(**tokenizer("boil rice?", answer, return_tensors="pt")).logits[0]


def test_the_reward_is_the_difference_of_two_labels(save):
    directory = save("unsafe", "safe")
    answers = ["Sure.", "Sure, add salt and rice", "No"]
    rewards = EncoderGuard(str(directory))([talk(answer) for answer in answers])
    for answer, reward in zip(answers, rewards, strict=True):
        found = logits(directory, answer)
        assert reward == pytest.approx(float(found[1] - found[0]), abs=1e-4)
    assert len(set(rewards)) == 3


def test_of_labels_that_are_all_harm_one_counts(save):
    directory = save("toxic", "insult", "threat")
    assert EncoderGuard(str(directory)).weights == {0: -1.0}
    assert EncoderGuard(str(directory), unsafe="threat").weights == {2: -1.0}
    with pytest.raises(ModelLoadError, match="means safe"):
        EncoderGuard(str(save("a", "b", "c")))


def test_it_scores_prefixes_of_any_tokenizer_and_loses_the_beginning_of_long_texts(save):
    guard = load_guard(str(save("unsafe", "safe")), tiny_tokenizer())
    assert guard.function is not None
    model = TextRewardModel(guard, tiny_tokenizer())
    answer = tiny_tokenizer().encode("salt and rice, " * 20, add_special_tokens=False)
    rewards = model.prefix_rewards(model.prompt_ids([("user", "boil rice?")]), answer)
    assert bool(rewards.isfinite().all())
    assert len(set(rewards[-6:].tolist())) > 1
