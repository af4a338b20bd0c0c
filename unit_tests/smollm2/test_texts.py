"""Texts of the recipe: what is learnt where, and the same states packed and alone."""

import math
from random import Random

import pytest
import torch

from langchain_saffron.models.loading import load_causal_lm
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG
from langchain_saffron.smollm2.recipe import layers
from langchain_saffron.smollm2.recipe.layers import SplitModel, cached_states
from langchain_saffron.smollm2.recipe.optimise import fit
from langchain_saffron.smollm2.recipe.texts import IGNORED, Text, encode_text, plan, system_ids
from unit_tests.builders import byte_level_tokenizer
from unit_tests.tiny_models import random_model, tiny_tokenizer

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PREFIX = [3, 4, 5]
TEXTS = [Text(tuple((7 * i + 3 * j) % 150 + 3 for j in range(5 + 4 * i)), 2) for i in range(5)]


@pytest.fixture
def tokenizer():
    made = tiny_tokenizer()
    made.chat_template = TEMPLATE
    made.eos_token = made.eos_token or made.convert_ids_to_tokens(2)
    return made


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(layers, "computes_bfloat16", lambda device: False)


def test_the_shared_prefix_and_a_text_are_the_whole_template(tokenizer):
    text = encode_text(tokenizer, "Say hello.", "Hello there.", ended=True)
    whole = tokenizer.apply_chat_template([{"role": "user", "content": "Say hello."}], tokenize=False)
    whole += "<|im_start|>assistant\nHello there."
    ids = tokenizer.encode(whole, add_special_tokens=False)
    assert [*system_ids(tokenizer), *text.ids] == [*ids, tokenizer.eos_token_id]


def test_what_is_learnt_and_what_is_unsafe(tokenizer):
    answer = "Sure, bad. But no."
    text = encode_text(tokenizer, "Q", answer, ended=True, learned_from=5, unsafe_until=10)
    learned = [target for target in text.targets if target != IGNORED]
    assert tokenizer.decode(learned[:-1]) == " bad. But no."
    assert learned[-1] == tokenizer.eos_token_id
    # every target stands one place before its token
    assert all(text.ids[place + 1] == target for place, target in enumerate(text.targets) if target != IGNORED)
    assert all(math.isnan(label) for label in text.labels[: text.answer])
    unsafe = [token for token, label in zip(text.ids, text.labels, strict=True) if label == 0]
    assert tokenizer.decode(unsafe) == answer[:10]
    assert text.labels[-1] == 1


def test_a_cut_answer_has_no_end(tokenizer):
    text = encode_text(tokenizer, "Q", "a long answer " * 20, ended=True, most=7)
    assert len(text.ids) == text.answer + 7
    assert text.ids[-1] != tokenizer.eos_token_id


def test_packed_and_split_states_are_those_of_each_text_alone():
    model = random_model()
    expected = [model.model(torch.tensor([PREFIX + list(t.ids)])).last_hidden_state[0, len(PREFIX) :] for t in TEXTS]
    split = SplitModel(model, PREFIX, rank=2)
    *lower, prefix = split.lower_states(TEXTS)
    for one, state in zip(expected, split.upper_states(TEXTS, lower, prefix), strict=True):
        assert torch.allclose(state, one, atol=1e-5)


def test_states_are_computed_once(tmp_path, monkeypatch):
    split = SplitModel(random_model(), PREFIX, rank=0)
    first = cached_states(split, TEXTS[:3], tmp_path / "states")
    asked = []
    compute = split.lower_states
    monkeypatch.setattr(split, "lower_states", lambda texts: asked.extend(texts) or compute(texts))
    again = cached_states(split, TEXTS, tmp_path / "states")
    assert asked == TEXTS[3:]
    assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))


def test_every_text_is_in_every_epoch_and_no_batch_too_long():
    batches = list(plan(TEXTS, 30, 2, Random(0)))
    assert sorted(index for batch in batches for index in batch) == sorted([*range(5)] * 2)
    assert all(sum(len(TEXTS[i].ids) for i in batch) <= 30 for batch in batches)


def test_a_trained_adapter_is_read_back_as_it_was(tmp_path):
    base = tmp_path / "base"
    random_model().save_pretrained(base)
    byte_level_tokenizer().save_pretrained(base)
    torch.manual_seed(0)
    split = SplitModel(load_causal_lm(base, "policy"), PREFIX, rank=2)
    *lower, prefix = split.lower_states(TEXTS)

    def loss_of(chosen):
        hidden = split.upper_states([TEXTS[i] for i in chosen], [lower[i] for i in chosen], prefix)
        return (hidden[-1][-1] - 1).square().mean()

    losses = fit(split.adapter(), loss_of, [[0, 1]] * 30, 1e-2, tmp_path / "checkpoint.pt", "test")
    assert losses[-1] < 0.7 * losses[0]
    split.save_adapter(tmp_path / "adapter", "../base", {})
    assert (tmp_path / "adapter" / ADAPTER_CONFIG).exists()
    merged = load_causal_lm(tmp_path / "adapter", "policy")
    with torch.inference_mode():
        trained = split.upper_states(TEXTS[:1], lower[:1], prefix)[0]
        read = merged.model(torch.tensor([PREFIX + list(TEXTS[0].ids)])).last_hidden_state[0]
    # what is stored is bfloat16
    assert torch.allclose(read[len(PREFIX) :], trained, atol=0.05)
    assert not torch.allclose(
        read,
        load_causal_lm(base, "policy").model(torch.tensor([PREFIX + list(TEXTS[0].ids)])).last_hidden_state[0],
        atol=0.05,
    )


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path):
    def run(stop_at=None):
        weight = torch.nn.Parameter(torch.ones(3))
        seen = []

        def loss_of(batch):
            if stop_at is not None and batch[0] == stop_at:
                raise KeyboardInterrupt
            seen.append(batch[0])
            return (weight * (batch[0] + 1)).square().sum()

        batches = [[i] for i in range(60)]
        try:
            losses = fit([weight], loss_of, batches, 0.01, tmp_path / "c.pt", "test")
        except KeyboardInterrupt:
            return seen, None, weight
        return seen, losses, weight

    _, whole, expected = run()
    run(stop_at=50)
    seen, losses, weight = run()
    assert seen[0] == 40
    assert losses == pytest.approx(whole)
    assert torch.allclose(weight, expected)
