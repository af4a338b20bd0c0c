"""Partial supervision: gradients, and predictions that are those of one prefix at a time."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from langchain_saffron.training.partial_supervision import PartialSupervision, Supervision
from langchain_saffron.training.sample import Sample
from unit_tests.tiny_models import VOCABULARY, plain_logits, random_model
from unit_tests.training.runs import NAN, PEFT_WARNINGS, samples

pytestmark = PEFT_WARNINGS
TARGETS = {"gpt2": ["c_attn"], "falcon": ["query_key_value"], "gpt-neox": ["query_key_value"], "phi3": ["qkv_proj"]}


def adapted(family="llama", **changes):
    """A model with an adapter that is not zero."""
    model = random_model(family, 3, **changes).requires_grad_(False)
    torch.manual_seed(7)
    targets = TARGETS.get(family, ["q_proj", "v_proj"])
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, fan_in_fan_out=family == "gpt2"
    )
    return get_peft_model(model, config).eval()


def supervised(family="llama", **changes):
    model = adapted(family, **changes)
    head = model.get_base_model().get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        torch.nn.init.normal_(head.bias)
    module = PartialSupervision(model)
    torch.nn.init.normal_(module.bias)
    return module


def predicted(module, batch):
    found = Supervision.of(batch)
    return module(found.input_ids, found.sequence, found.position, found.following), found.rewards


def test_a_centred_bias_makes_the_mean_prediction_that_of_the_rewards():
    module, batch = supervised(), samples(6)
    before, wanted = predicted(module, batch)
    module.centre(batch)
    found, _ = predicted(module, batch)
    assert abs(float((before - wanted).detach().mean())) > 0.1
    assert abs(float((found - wanted).detach().mean())) < 1e-4
    assert torch.allclose(found - before, (found - before)[:1].expand_as(found), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gptj"])
def test_the_gradient_is_zero_at_tokens_that_never_follow(family):
    """Proposition 1 of the paper, over eq. 5."""
    module = supervised(family)
    head = module.model.get_base_model().get_output_embeddings().weight
    frozen = {name: p.clone() for name, p in module.named_parameters() if not p.requires_grad}
    assert any(p is head for p in module.parameters())
    batch = samples(6)
    found, wanted = predicted(module, batch)
    loss = ((found - wanted) ** 2).sum() / len(wanted)
    loss.backward()
    target = torch.zeros(VOCABULARY, dtype=torch.bool)
    target[[int(token) for sample in batch for token in sample.token_ids[3:]]] = True
    assert 5 < target.sum() < 31
    assert torch.equal(module.bias.grad[~target], torch.zeros(VOCABULARY - int(target.sum())))
    assert (module.bias.grad[target] != 0).all()
    # eq. 5's own derivative: the residuals of each token, summed
    residuals = torch.zeros(VOCABULARY).index_add(0, Supervision.of(batch).following, 2 * (found - wanted).detach())
    assert torch.allclose(module.bias.grad, residuals / len(wanted), atol=1e-5)
    assert head.grad is None
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name or name == "bias"), name
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    assert all(p.grad.abs().max() > 0 for name, p in module.named_parameters() if "lora_" in name)


FAMILIES = {
    "llama": ({}, True),
    "qwen2": ({}, True),
    "gpt2": ({}, True),
    "gptj": ({}, True),
    "phi": ({}, True),
    "phi3": ({}, True),
    "opt": ({}, True),
    "falcon": ({}, True),
    "gpt-neox": ({}, True),
    "gemma3": ({}, True),
    "gemma2": ({}, False),
    "cohere": ({}, False),
    "cohere2": ({}, False),
    "granite": ({"logits_scaling": 8.0}, False),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_those_of_one_prefix_at_a_time(family):
    changes, by_rows = FAMILIES[family]
    module = supervised(family, **changes)
    assert module._by_rows == by_rows
    batch = samples(5, tokens=300)
    with torch.no_grad():
        found, _ = predicted(module, batch)
    wanted = [
        plain_logits(module.model, sample.token_ids[:at].tolist())[sample.token_ids[at]]
        + module.bias[sample.token_ids[at]]
        for sample in batch
        for at in np.flatnonzero(sample.known)
    ]
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.stack(wanted), atol=2e-4)


def test_a_cap_on_logits_is_noticed_where_they_are_small():
    # it bends none of them yet, but it will once the adapter has made them larger
    model = adapted("gemma2", initializer_range=0.02)
    assert plain_logits(model, [5, 6, 7]).abs().max() < 1
    assert model.config.final_logit_softcapping
    assert not PartialSupervision(model)._by_rows


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_padding_changes_nothing(family):
    module = supervised(family)
    batch = samples(6)
    assert len({len(sample.token_ids) for sample in batch}) > 2
    with torch.no_grad():
        together, wanted = predicted(module, batch)
        apart = [predicted(module, [sample]) for sample in batch]
    assert torch.allclose(together, torch.cat([found for found, _ in apart]), atol=1e-5)
    assert torch.equal(wanted, torch.cat([rewards for _, rewards in apart]))


def test_a_batch_holds_what_is_known():
    first = Sample(0, np.array([7, 8, 9]), np.array([NAN, 0.5, NAN], np.float32))
    second = Sample(1, np.array([3, 4, 5, 6]), np.array([NAN, NAN, -1, 2], np.float32))
    found = Supervision.of([first, second])
    assert found.input_ids.tolist() == [[7, 8, 9], [3, 4, 5]]
    assert found.sequence.tolist() == [0, 1, 1]
    assert found.position.tolist() == [0, 1, 2]
    assert found.following.tolist() == [8, 5, 6]
    assert found.rewards.tolist() == [0.5, -1, 2]


def test_a_bias_starts_at_zero_and_is_all_that_is_added():
    model = adapted()
    module = PartialSupervision(model)
    assert torch.equal(module.bias, torch.zeros(VOCABULARY))
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable == {"bias", *(f"model.{name}" for name, p in model.named_parameters() if "lora_" in name)}
