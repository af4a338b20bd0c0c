"""Layers in fewer operations: those of the model to rounding, row by row, and none where they would differ."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

from langchain_saffron.models import packing, quantization
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.models.lean_norm import LeanNorm
from langchain_saffron.models.lean_rotation import LeanRotation
from unit_tests.families import VOCABULARY
from unit_tests.models.trees import grow_and_check
from unit_tests.tiny_models import random_model

IDS = list(range(5, 60))
KNOWN = ["llama", "qwen2", "qwen3", "mistral", "llama-yarn-rope"]


def random_biases(model: Any, seed: int = 0) -> Any:
    """The same with norms and biases that are not those that every layer begins with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def plain_and_lean(model: Any, **options: Any) -> tuple[TrieDecoder, TrieDecoder]:
    """Two decoders over one model, of which the first computes the model's own layers."""
    plain, lean = (TrieDecoder(model, "policy", max_cache_tokens=400, **options) for _ in range(2))
    assert lean.lean is not None
    plain.lean = None
    return plain, lean


def states(decoder: TrieDecoder, prompts: list[list[int]], branches: int = 3) -> torch.Tensor:
    """States of the last tokens of some prompts, and of the children of each."""
    paths = [decoder.forest.insert(prompt) for prompt in prompts]
    rows = [slot for path in paths for slot in path]
    ends = np.cumsum([len(path) for path in paths]) - 1
    first = decoder.forward(rows, ends.tolist(), [len(path) for path in paths], states=True)
    children = [decoder.forest.insert([20 + i], parent=path[-1])[-1] for path in paths for i in range(branches)]
    more = decoder.forward(children, range(len(children)), [branches] * len(paths), states=True)
    return torch.cat([first, more]).float()


PROMPTS = [[(5 * i + 11 * j) % VOCABULARY for i in range(12 + 5 * j)] for j in range(3)]


@pytest.mark.parametrize("family", KNOWN)
def test_random_trees_equal_full_forwards(family: str):
    model = random_biases(random_model(family, 4))
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.lean is not None
    assert grow_and_check(decoder, model, 4, 1e-4) > 40


@pytest.mark.parametrize("family", KNOWN)
def test_states_are_those_of_the_model(family: str):
    plain, lean = plain_and_lean(random_biases(random_model(family)))
    expected, found = states(plain, PROMPTS), states(lean, PROMPTS)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_a_narrow_type_they_are_as_near_to_float32_as_the_model(dtype: torch.dtype):
    exact = states(TrieDecoder(random_biases(random_model("qwen3")), "policy", max_cache_tokens=400), PROMPTS)
    plain, lean = (
        (states(decoder, PROMPTS) - exact).norm()
        for decoder in plain_and_lean(random_biases(random_model("qwen3")).to(dtype))
    )
    assert lean < 1.5 * plain


@pytest.fixture
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    monkeypatch.setattr(quantization, "SMALLEST_PRODUCT", 1)
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 1.0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_in_int8_they_are_those_of_the_model_and_alone_those_of_a_batch(family: str, all_sizes: None):
    plain, lean = plain_and_lean(random_biases(random_model(family, initializer_range=0.05)), int8_text=IDS)
    for decoder in (plain, lean):
        # in float32, as what rounding to bfloat16 does hangs on which slots are read
        decoder.pool.hold_in(None)
    expected, found = states(plain, PROMPTS), states(lean, PROMPTS)
    # the last bit of an input can be a whole step of its row
    assert (found - expected).norm() < 0.02 * expected.norm()
    path = lean.forest.insert(PROMPTS[1])
    tips = [lean.forest.insert([60 + i], parent=path[-1])[-1] for i in range(5)]
    layer = lean.lean.layers[0] if lean.lean is not None else None
    assert layer is not None
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    parts = [layer._first, layer._heads_of, layer._gates_of]
    for part in parts:
        assert torch.equal(part(rows), torch.cat([part(row[None]) for row in rows]))
    together = lean.forward(tips, range(5), [5], states=True)
    alone = torch.cat([lean.forward([tip], [0], [1], states=True) for tip in tips])
    assert torch.allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("size", [8, 64, 100, 576, 2048])
def test_a_row_is_normalised_the_same_alone_and_among_others(size: int):
    torch.manual_seed(size)
    own = LlamaRMSNorm(size, eps=1e-5)
    own.weight.data.normal_()
    rows = torch.randn(300, size) * torch.logspace(-6, 4, 300)[:, None]
    norm = LeanNorm(own)
    expected = norm(rows)
    assert torch.allclose(expected, own(rows).detach(), atol=1e-6, rtol=1e-5)
    for count in (1, 2, 7, 64):
        found = torch.cat([norm(rows[i : i + count].clone()) for i in range(0, 300, count)])
        assert torch.equal(found, expected)


def test_heads_are_turned_as_the_model_turns_them():
    torch.manual_seed(0)
    cosines, sines = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    query, key, value = (torch.randn(1, count, 6, 16) for count in (6, 2, 2))
    turned = apply_rotary_pos_emb(query, key, cosines, sines)
    rotation = LeanRotation.of(cosines[0], sines[0], heads=6, kv_heads=2, scaling=0.25)
    found = rotation.turn(torch.cat([query, key, value], dim=1)[0].transpose(0, 1).contiguous())
    # a factor that is a power of two changes no bit
    assert torch.equal(found, torch.cat([0.25 * turned[0], turned[1], value], dim=1)[0].transpose(0, 1))


def test_a_tap_hears_layers_and_nobody_changes_what_it_holds():
    plain, lean = plain_and_lean(random_model("llama"))
    taken = []
    for decoder in (plain, lean):
        tap = LayerTap(decoder.model, 2)
        path = decoder.forest.insert(PROMPTS[0])
        decoder.forward(path, [len(path) - 1], states=True)
        taken.append(tap.take((0,)))
        tap.close()
    assert torch.allclose(taken[1], taken[0], atol=1e-4)


def test_a_model_that_is_used_elsewhere_computes_as_before_and_its_weights_stay():
    model = random_model("llama")
    tokens = torch.tensor([PROMPTS[0]])
    expected = model(input_ids=tokens).logits
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.lean is not None
    decoder.forward(decoder.forest.insert(PROMPTS[0]), [3])
    with decoder.lean.inside():
        assert torch.equal(model(input_ids=tokens).logits, expected)
    assert "forward" not in vars(model.base_model)
    assert torch.equal(model(input_ids=tokens).logits, expected)


class Clamped(LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(-1e3, 1e3)


def test_what_is_not_known_computes_its_own_layers():
    """Even where it gives the same on the tree on which layers are compared."""
    model = random_model("llama")
    model.model.layers[1].mlp.__class__ = Clamped
    assert TrieDecoder(model, "policy", max_cache_tokens=400).lean is None
    for family in ("gemma", "phi3", "gpt2", "granite"):
        assert TrieDecoder(random_model(family), "policy", max_cache_tokens=400).lean is None
    assert TrieDecoder(random_model("llama", dtype=torch.float64), "policy", max_cache_tokens=400).lean is None


def test_hooks_on_parts_of_layers_are_called():
    model = random_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.lean is None
    assert grow_and_check(decoder, model, 1, 1e-4) > 40


def test_a_hook_may_change_what_a_layer_gives():
    plain, lean = plain_and_lean(random_model("llama"))
    for decoder in {id(one.model): one for one in (plain, lean)}.values():
        decoder.model.model.layers[1].register_forward_hook(lambda module, inputs, output: output + 1)
    assert torch.allclose(states(lean, PROMPTS), states(plain, PROMPTS), atol=1e-4)


@pytest.mark.parametrize("part", [None, "norm", "head norm", "gate", "rotation"])
def test_layers_that_come_out_differently_are_not_taken(part: str | None, monkeypatch: pytest.MonkeyPatch):
    even, turn = LeanNorm.even, LeanRotation.turn
    size = {"norm": 32, "head norm": 8}.get(part or "")
    monkeypatch.setattr(
        LeanNorm, "even", lambda self, rows: even(self, rows) * (1.001 if rows.shape[-1] == size else 1.0)
    )
    if part == "rotation":
        monkeypatch.setattr(LeanRotation, "turn", lambda self, heads: turn(self, heads).roll(1, 0))
    model = random_model("qwen3")
    if part == "gate":
        # a layer that computes something else than its kind says
        model.model.layers[2].mlp.forward = lambda x: x
    assert (TrieDecoder(model, "policy", max_cache_tokens=400).lean is None) == (part is not None)
