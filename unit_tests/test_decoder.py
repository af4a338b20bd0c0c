"""Tree decoding equals full forwards without a cache."""

import random

import pytest
import torch

from langchain_saffron.cache.attention import NAME as TREE_ATTENTION
from langchain_saffron.errors import NumericalError, UnsupportedModelError
from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.tiny_models import FAMILIES, VOCABULARY, plain_logits, random_model


def history(decoder: TrieDecoder, node: int) -> list[int]:
    return [decoder.forest.token(int(n)) for n in decoder.forest.path(node)]


def grow_and_check(decoder: TrieDecoder, model: torch.nn.Module, seed: int, tolerance: float) -> int:
    """Random trees: several prompts, branching, pruning, slot reuse, mixed lengths in one forward."""
    rng = random.Random(seed)
    forest = decoder.forest
    frontier: list[int] = []
    held: list[int] = []
    checked = 0
    for step in range(12):
        rows: list[int] = []
        if step in (0, 3, 6):
            prompt = forest.insert([rng.randrange(VOCABULARY) for _ in range(rng.randint(3, 25))])
            rows += prompt
            held.append(prompt[-1])
            frontier.append(prompt[-1])
        children = []
        for node in frontier:
            if forest.filled[node]:
                tokens = {rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 3))}
                children += [forest.insert([token], parent=node)[-1] for token in tokens]
        rows += children
        scored = [i for i, slot in enumerate(rows) if slot in children or slot in frontier]
        logits = decoder.forward(rows, scored)
        for place, row in zip(scored, logits, strict=True):
            expected = plain_logits(model, history(decoder, rows[place]))
            assert torch.allclose(row, expected, atol=tolerance, rtol=0), (step, place)
            checked += 1
        held += children
        # prune: drop most nodes, so that slots are reused
        rng.shuffle(held)
        while len(held) > 6:
            forest.release(held.pop())
        frontier = list(held)
    return checked


@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_random_trees_equal_full_forwards(family: str, seed: int, attention: str | None):
    model = random_model(family, seed)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400, attn_implementation=attention)
    assert model.config._attn_implementation == (attention or TREE_ATTENTION)
    assert grow_and_check(decoder, model, seed, 1e-4) > 40
    assert decoder.forest.used <= 400


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_in_double_precision_they_are_equal_to_1e_9(family: str):
    model = random_model(family, 5, dtype=torch.float64)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert grow_and_check(decoder, model, 5, 1e-9) > 40


@pytest.mark.parametrize("attention", [None, "sdpa"])
def test_scattered_slots_are_exact_too(attention: str | None):
    model = random_model("llama", 3)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=600, attn_implementation=attention)
    forest = decoder.forest
    spacer = forest.insert(list(range(8)))
    first = forest.insert([50, 51, 52])
    wall = forest.insert([100 + i for i in range(200)])
    decoder.forward([*spacer, *first, *wall], [])
    tail = forest.insert([60, 61], parent=first[-1])
    before = decoder.pool.gathers
    logits = decoder.forward(tail, [1])
    # the tree's own attention reads prefix and tail where they lie
    assert (decoder.pool.gathers > before) == (attention == "sdpa")
    assert torch.allclose(logits[0], plain_logits(model, [50, 51, 52, 60, 61]), atol=1e-4)


def test_the_order_of_rows_does_not_matter():
    """A request may ask for a prompt's end again while another already has its children in the forward."""
    model = random_model("llama", 6)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=100)
    prompt = decoder.forest.insert([4, 8, 15])
    children = [decoder.forest.insert([token], parent=prompt[-1])[-1] for token in (16, 23, 42)]
    decoder.forward(prompt, [])
    rows = [*children, prompt[-1]]
    logits = decoder.forward(rows, [0, 1, 2, 3])
    for slot, row in zip(rows, logits, strict=True):
        assert torch.allclose(row, plain_logits(model, history(decoder, slot)), atol=1e-4)


def test_a_long_prompt_in_chunks_equals_it_in_one_piece():
    model = random_model("qwen3", 4)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    prompt = decoder.forest.insert([(7 * i) % VOCABULARY for i in range(100)])
    for start in range(0, 100, 33):
        chunk = prompt[start : start + 33]
        logits = decoder.forward(chunk, [len(chunk) - 1])
    assert torch.allclose(logits[0], plain_logits(model, history(decoder, prompt[-1])), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_groups_attend_to_their_own_and_to_what_another_has_just_written(family: str):
    """Two requests with a common beginning, both new in the same forward, beside a third of another length."""
    model = random_model(family, 7)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    first = decoder.forest.insert([9, 8, 7, 6, 5])
    second = decoder.forest.insert([9, 8, 7, 30, 31, 32, 33])
    third = decoder.forest.insert([(3 * i) % VOCABULARY for i in range(70)])
    new = [slot for slot in second if slot not in first]
    rows = [*first, *new, *third]
    ends = [first[-1], second[-1], third[-1]]
    logits = decoder.forward(rows, [rows.index(end) for end in ends], groups=[len(first), len(new), len(third)])
    for end, row in zip(ends, logits, strict=True):
        assert torch.allclose(row, plain_logits(model, history(decoder, end)), atol=1e-4)


def test_a_model_that_is_used_elsewhere_still_works_there():
    """Outside the engine a loaded model attends as with sdpa, padding masks included."""
    model, untouched = random_model("llama", 8), random_model("llama", 8)
    TrieDecoder(model, "policy")
    ids = torch.tensor([[2, 2, 5, 6, 7], [9, 10, 11, 12, 13]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
    assert torch.equal(model.generate(ids, **options), untouched.generate(ids, **options))


def test_damaged_weights_are_refused_at_load():
    model = random_model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NumericalError, match="policy"):
        TrieDecoder(model, "policy")


def test_the_pool_grows_only_as_far_as_needed():
    model = random_model("llama")
    decoder = TrieDecoder(model, "policy", max_cache_tokens=5000)
    prompt = decoder.forest.insert([1, 2, 3])
    decoder.forward(prompt, [2])
    per_slot = 3 * 2 * 2 * 8 * 4  # layers, keys and values, kv heads, head size, bytes
    assert decoder.pool.bytes_per_slot == per_slot
    assert decoder.pool.allocated_bytes == 256 * per_slot
    long = decoder.forest.insert([i % VOCABULARY for i in range(1400)])
    decoder.forward(long[:200], [])
    assert decoder.pool.allocated_bytes == 256 * per_slot
    decoder.forward(long[200:], [])
    assert decoder.forest.used * per_slot <= decoder.pool.allocated_bytes <= 1.3 * decoder.forest.used * per_slot


def test_what_cannot_share_a_trie_is_refused_by_name():
    from transformers import AutoModelForCausalLM, MambaConfig

    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match="policy"):
        TrieDecoder(model, "policy")
