"""Keys in the order of their products, and keys and values in bfloat16 where a model's own rounding is larger."""

import numpy as np
import pytest
import torch

from langchain_saffron.models import quantization, tree_check
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.tree_check import TreeCheck
from unit_tests.families import CORE, VOCABULARY
from unit_tests.models.trees import grow_and_check, history
from unit_tests.tiny_models import plain_logits, random_model

IDS = [(13 * i + 5) % VOCABULARY for i in range(60)]
narrow = pytest.mark.skipif(
    not tree_check.computes_bfloat16("cpu"), reason="this CPU has no instructions for bfloat16 (AVX-512 BF16 or AMX)"
)


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of any size go into int8, whatever that changes in a random model."""
    monkeypatch.setattr(quantization, "SMALLEST_PRODUCT", 1)
    monkeypatch.setattr(quantization.packing, "SMALLEST_WEIGHT", 1)
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 1.0)


@pytest.mark.parametrize("family", CORE)
def test_upright_keys_are_exact(family: str):
    model = random_model(family, 5)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    decoder.pool.hold_in(None, upright=True)
    assert grow_and_check(decoder, model, 5, 1e-4) > 40
    store = decoder.pool.layer(0)
    assert store.upright is not None
    assert torch.equal(store.upright, store.keys.transpose(1, 2))


def test_upright_keys_grow_and_are_wiped_with_the_others():
    model = random_model("llama", 2)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=2000)
    decoder.pool.hold_in(None, upright=True)
    prompt = decoder.forest.insert([(7 * i) % VOCABULARY for i in range(600)])
    for start in range(0, 600, 200):
        chunk = prompt[start : start + 200]
        logits = decoder.forward(chunk, [len(chunk) - 1])
    assert torch.allclose(logits[0], plain_logits(model, history(decoder, prompt[-1])), atol=1e-4)
    store = decoder.pool.layer(1)
    assert store.upright is not None
    assert store.upright.shape[2] == store.keys.shape[1] >= 600
    decoder.forget(prompt[:3])
    assert not store.upright[:, :, prompt[:3]].any()
    assert not store.keys[:, prompt[:3]].any()
    assert store.upright[:, :, prompt[3:]].all()


def test_what_a_slot_takes_is_counted():
    decoder = TrieDecoder(random_model("llama"), "policy", max_cache_tokens=500)
    prompt = decoder.forest.insert([1, 2, 3])
    decoder.forward(prompt, [])
    floats = decoder.pool.bytes_per_slot
    decoder.clear()
    decoder.pool.hold_in(torch.bfloat16, upright=True)
    decoder.forward(decoder.forest.insert([1, 2, 3]), [])
    assert decoder.pool.bytes_per_slot == floats * 3 // 4


@narrow
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_model_in_bfloat16_is_about_as_near_to_float32_as_without_a_cache(family: str):
    floats = random_model(family, 3)
    model = random_model(family, 3).to(torch.bfloat16)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.pool.is_upright
    prompt = decoder.forest.insert(IDS)
    decoder.forward(prompt[:-1], [])
    rows = [prompt[-1], *(decoder.forest.insert([token], parent=prompt[-1])[-1] for token in range(0, 90, 6))]
    truth = torch.stack([plain_logits(floats, history(decoder, slot)) for slot in rows])
    plain = torch.stack([plain_logits(model, history(decoder, slot)).float() for slot in rows])
    found = decoder.forward(rows, range(len(rows)))
    assert float((found - truth).norm()) < 1.6 * float((plain - truth).norm())


@narrow
def test_int8_takes_it_where_it_changes_little(small_products: None, monkeypatch: pytest.MonkeyPatch):
    decoder = TrieDecoder(random_model("llama"), "policy", max_cache_tokens=200, int8_text=IDS)
    assert decoder.quantized is not None
    assert decoder.quantized.cache is not None
    assert (decoder.pool.dtype, decoder.pool.is_upright) == (torch.bfloat16, True)
    assert 0 < decoder.quantized.cache <= 1.0
    assert decoder.forest.used == 0

    # beyond the bound it is not taken
    change = decoder.quantized.cache
    monkeypatch.setattr(quantization, "divergence", lambda expected, found: change)
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", change * 0.9)
    assert not decoder.quantized.holds(torch.zeros(1, 4), torch.zeros(1, 4), rewards=False)
    assert decoder.quantized.cache is None


@narrow
def test_a_cache_smaller_than_the_text_is_measured_on_what_it_holds(small_products: None):
    decoder = TrieDecoder(random_model("llama"), "policy", max_cache_tokens=len(IDS) // 2, int8_text=IDS)
    assert decoder.quantized is not None
    assert decoder.quantized.cache is not None
    assert (decoder.pool.dtype, decoder.forest.used) == (torch.bfloat16, 0)


def test_floats_stay_what_they_are(small_products: None, monkeypatch: pytest.MonkeyPatch):
    plain = TrieDecoder(random_model("llama"), "policy", max_cache_tokens=100)
    assert (plain.pool.dtype, plain.pool.is_upright) == (None, False)
    monkeypatch.setattr(tree_check, "computes_bfloat16", lambda device: False)
    decoder = TrieDecoder(random_model("llama"), "policy", max_cache_tokens=100, int8_text=IDS)
    assert decoder.quantized is not None
    assert decoder.quantized.layers > 0
    assert (decoder.pool.dtype, decoder.quantized.cache) == (None, None)


@narrow
@pytest.mark.parametrize(("text", "checks"), [(None, 1), (IDS, 2)])
def test_the_branches_are_read_once_for_weights_of_a_type(
    small_products: None, monkeypatch: pytest.MonkeyPatch, text: list[int] | None, checks: int
):
    found: list[torch.Tensor] = []
    of_branches = TreeCheck.of_branches
    monkeypatch.setattr(TreeCheck, "of_branches", lambda check: (found.append(of_branches(check)), found[-1])[1])
    model = random_model("llama", 3)
    decoder = TrieDecoder(model.to(torch.bfloat16) if text is None else model, "policy", 400, int8_text=text)
    assert decoder.pool.dtype == torch.bfloat16
    assert len(found) == checks


@narrow
def test_requests_in_a_batch_round_where_a_single_one_does():
    """Alone, by products; together, in one batch: neither may keep scores in float32 that the other rounds."""
    model = random_model("llama", 8)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=2000)
    decoder.pool.hold_in(torch.bfloat16, upright=True)
    prompts = [decoder.forest.insert([(k + 7 * j) % VOCABULARY for j in range(20 + k)]) for k in range(6)]
    decoder.forward([slot for path in prompts for slot in path[:-1]], [], [len(path) - 1 for path in prompts])
    tips = [path[-1] for path in prompts]
    alone = torch.cat([decoder.forward([tip], [0]) for tip in tips])
    decoder.forget(tips)
    together = decoder.forward(tips, range(len(tips)), [1] * len(tips))
    assert decoder.forward_context(np.array(tips), [1] * len(tips)).plan is not None
    assert float((together - alone).abs().max()) < 2e-3 * float(alone.std())
