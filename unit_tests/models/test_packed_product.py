"""Packed layers that read the same rows are one product, and still layers of a model."""

from typing import Any

import pytest
import torch

from langchain_saffron.models import packed_product, packing
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.packed_product import PackedPart, PackedProduct, join
from langchain_saffron.models.packing import PackedLinear
from unit_tests.models.trees import grow_and_check
from unit_tests.tiny_models import random_model


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)


def parts(model: Any) -> int:
    return sum(isinstance(module, PackedPart) for module in model.modules())


def three(biases: tuple[bool, ...] = (True, False, True), dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A module with three packed layers of 64, 96 and 64 outputs."""
    torch.manual_seed(2)
    module = torch.nn.Module()
    for i, (size, bias) in enumerate(zip((64, 96, 64), biases, strict=True)):
        linear = torch.nn.Linear(80, size, bias=bias, dtype=dtype).requires_grad_(False)
        module.add_module(f"part{i}", PackedLinear(linear))
    return module


NAMES = ["part0", "part1", "part2"]


@pytest.mark.parametrize("biases", [(True, False, True), (False, False, False)])
@torch.inference_mode()
def test_each_gives_what_it_gave_in_any_order(biases: tuple[bool, ...]):
    module, rows = three(biases), torch.randn(5, 80)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    expected = [module.get_submodule(name)(rows) for name in NAMES]
    join(module, NAMES)
    assert parts(module) == 3
    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 0]):
        for i in order:
            assert torch.allclose(module.get_submodule(NAMES[i])(rows), expected[i], atol=1e-5)
    other = rows + 1
    (first, second) = (getattr(module, NAMES[i]) for i in (0, 1))
    first(rows)
    assert torch.allclose(second(other), three(biases).get_submodule("part1")(other), atol=1e-5)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_cannot_be_joined_stays(monkeypatch: pytest.MonkeyPatch):
    mixed = three()
    mixed.part1 = torch.nn.Linear(80, 96)
    heard = three()
    heard.part2.register_forward_hook(lambda module, inputs, output: None)
    own = PackedProduct.__call__
    for module in (mixed, heard):
        join(module, NAMES)
        assert parts(module) == 0
    with monkeypatch.context() as patch:
        patch.setattr(packed_product, "MOST_WEIGHTS", 224 * 80 - 1)
        large = three()
        join(large, NAMES)
        assert parts(large) == 0
    monkeypatch.setattr(PackedProduct, "__call__", lambda self, rows: own(self, rows).roll(1, -1))
    wrong = three()
    join(wrong, NAMES)
    assert parts(wrong) == 0


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_decoders_join_their_own_and_leave_others(family: str):
    model = random_model(family, 6)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert parts(decoder.model) == 5 * model.config.num_hidden_layers
    assert parts(model) == 0
    assert grow_and_check(decoder, model, 6, 1e-4) > 40
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(decoder.model(tokens).logits, model(tokens).logits, atol=1e-4)
    assert all(torch.equal(decoder.model.state_dict()[name], one) for name, one in model.state_dict().items())
