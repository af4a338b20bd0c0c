"""Packed linear layers compute the same, and leave a model that is not ours as it was."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from langchain_saffron.models import packing
from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.tiny_models import random_model

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)


def packed_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, packing.PackedLinear) for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "phi"])
@torch.inference_mode()
def test_a_packed_copy_computes_the_same_and_shares_the_rest(family: str):
    model = random_model(family)
    expected, before = model(input_ids=IDS).logits, copy.deepcopy(model.state_dict())
    packed = packing.pack(model, in_place=False)
    assert packed_layers(packed) > 10
    assert packed_layers(model) == 0
    assert torch.allclose(packed(input_ids=IDS).logits, expected, atol=1e-4)
    assert packed.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.inference_mode()
def test_what_is_packed_can_be_copied_saved_and_unpacked(tmp_path):
    model = random_model("gpt2")
    expected = model(input_ids=IDS).logits
    packed = packing.pack(copy.deepcopy(model), in_place=True)
    packed.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(input_ids=IDS).logits, expected)
    assert torch.equal(copy.deepcopy(packed)(input_ids=IDS).logits, packed(input_ids=IDS).logits)
    packing.unpack(packed)
    assert packed_layers(packed) == 0
    assert torch.equal(packed(input_ids=IDS).logits, expected)


@pytest.mark.parametrize("owned", [True, False])
def test_a_model_that_reads_its_own_weights_runs_unpacked(owned: bool):
    model = random_model("llama")

    class Reading(LlamaMLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.gate_proj.weight)[..., :32]

    model.model.layers[0].mlp.__class__ = Reading
    expected = model(input_ids=IDS).logits
    decoder = TrieDecoder(model, "policy", max_cache_tokens=100, owned=owned)
    assert packed_layers(decoder.model) == 0
    assert torch.equal(decoder.model(input_ids=IDS).logits, expected)


def test_what_does_not_fit_twice_is_not_copied(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "_free_memory", lambda: 1000)
    model = random_model("llama")
    assert packing.pack(model, in_place=False) is model
    assert packed_layers(packing.pack(model, in_place=True)) > 10


def test_double_precision_is_left_alone():
    model = random_model("llama", dtype=torch.float64)
    assert packing.pack(model, in_place=True) is model
    assert packed_layers(model) == 0
