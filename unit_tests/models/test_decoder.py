"""Tree decoding equals full forwards without a cache."""

import copy
import random
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    LlamaForCausalLM,
    MambaConfig,
    MptConfig,
    PretrainedConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    XLMConfig,
)

from langchain_saffron.cache.attention import NAME as TREE_ATTENTION
from langchain_saffron.cache.attention_plan import Batch
from langchain_saffron.errors import NumericalError, UnsupportedModelError
from langchain_saffron.models import packing
from langchain_saffron.models.compat import cache_argument
from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.families import CORE, FALLBACKS, FAMILIES, VOCABULARY, mostly_slow
from unit_tests.models.trees import grow_and_check, history
from unit_tests.tiny_models import plain_logits, random_model


@pytest.mark.parametrize("family", mostly_slow(FAMILIES))
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_trees_equal_full_forwards(family: str, seed: int):
    model = random_model(family, seed)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.model.config._attn_implementation == TREE_ATTENTION
    assert grow_and_check(decoder, model, seed, 1e-4) > 40
    assert decoder.forest.used <= 400


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("family", FALLBACKS)
def test_families_whose_attention_cannot_always_be_replaced(family: str, attention: str | None):
    """Which of them take the tree's own attention differs between versions of transformers; their results do not."""
    model = random_model(family)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400, attn_implementation=attention)
    assert attention is None or decoder.model.config._attn_implementation != TREE_ATTENTION
    assert grow_and_check(decoder, model, 0, 1e-4) > 40


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_layers_that_attend_in_their_own_way_take_one_mask(family: str):
    """They accept any attention that they are told to take, and go on with their own."""
    model = random_model(family)
    model.set_attn_implementation("eager")
    for layer in model.model.layers:
        layer.self_attn.config = copy.deepcopy(model.config)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.model.config._attn_implementation == "eager"
    assert grow_and_check(decoder, model, 0, 1e-4) > 40


class NewNames(LlamaForCausalLM):
    """What transformers calls its cache from 5.24 on."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, use_cache=None, logits_to_keep=0):
        return super().forward(
            input_ids,
            attention_mask,
            position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{str(cache_argument(LlamaForCausalLM)): cache},
        )


class OldNames(NewNames):
    """What it called it before; so may the code that comes with a checkpoint, whatever the version."""

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, logits_to_keep=0
    ):
        return super().forward(input_ids, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep)


@pytest.mark.parametrize("kind", [LlamaForCausalLM, NewNames, OldNames])
def test_the_cache_goes_by_the_name_that_a_model_knows(kind: type[LlamaForCausalLM]):
    torch.manual_seed(2)
    model = kind(FAMILIES["llama"]()).eval()
    with warnings.catch_warnings():
        # transformers still takes the old name, with a warning that would reach the user
        warnings.simplefilter("error")
        decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
        assert decoder.model.config._attn_implementation == TREE_ATTENTION
        assert grow_and_check(decoder, model, 2, 1e-4) > 40


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", CORE)
def test_the_attention_that_a_user_names_is_exact_too(family: str, attention: str):
    model = random_model(family)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400, attn_implementation=attention)
    assert decoder.model.config._attn_implementation == attention
    assert grow_and_check(decoder, model, 0, 1e-4) > 40


# GPT-J and CodeGen compute their attention in float32 whatever the dtype, DeepSeek the choice of experts
@pytest.mark.parametrize("family", mostly_slow([*FAMILIES, "falcon"]))
def test_in_double_precision_they_are_equal_to_1e_9(family: str):
    model = random_model(family, 5, dtype=torch.float64)
    # transformers multiplies stacked experts in float32 at most, unless told to go one by one
    model.config._experts_implementation = "eager"
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert grow_and_check(decoder, model, 5, 1e-9) > 40


@pytest.mark.parametrize(
    "family", mostly_slow([*CORE, "phi", "gpt-neox", "opt", "glm4", "qwen3-moe", "gpt-oss", "falcon"])
)
def test_packed_layers_are_exact_too(family: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    model = random_model(family)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert any(isinstance(module, packing.PackedLinear) for module in decoder.model.modules())
    assert grow_and_check(decoder, model, 0, 1e-4) > 40


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(["llama", "mistral", "gemma3", "gemma2", "gpt-oss"]),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    branches=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_any_tree_in_any_split_into_forwards_equals_full_forwards(
    family: str, lengths: list[int], branches: int, seed: int
):
    """Any number of requests of any length, split over forwards and groups in any way that parents allow."""
    rng = random.Random(seed)
    model = shared_model(family)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=1500)
    tips = []
    for length in lengths:
        # few tokens, so that requests share beginnings
        prompt = decoder.forest.insert(rng.choices(range(3), k=length))
        for _ in range(rng.randint(1, branches)):
            tips.append(decoder.forest.insert(rng.choices(range(VOCABULARY), k=rng.randint(1, 5)), parent=prompt[-1]))
    paths = [decoder.forest.path(tip[-1]).tolist() for tip in tips]
    while any(paths):
        rows: list[int] = []
        groups: list[int] = []
        for path in paths:
            # a slot that another request shares may have been computed already
            path[:] = [slot for slot in path if not decoder.forest.filled[slot] and slot not in rows]
            count = rng.randint(0, len(path))
            if count:
                rows += path[:count]
                groups.append(count)
                del path[:count]
        if rows:
            scored = rng.sample(range(len(rows)), min(4, len(rows)))
            logits = decoder.forward(rows, scored, groups)
            for place, row in zip(scored, logits, strict=True):
                expected = plain_logits(model, history(decoder, rows[place]))
                assert torch.allclose(row, expected, atol=1e-4, rtol=0)


@cache
def shared_model(family: str) -> torch.nn.Module:
    return random_model(family, 11)


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


def test_small_requests_attend_together():
    """Sixteen requests of different length, in few batches; each as if it were alone."""
    model = random_model("gemma2", 7)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=2000)
    prompts = [
        decoder.forest.insert([(k + i * j) % VOCABULARY for j in range(5 + 3 * k)]) for i, k in enumerate(range(16))
    ]
    decoder.forward([slot for prompt in prompts for slot in prompt], [], [len(prompt) for prompt in prompts])
    rows, groups = [], []
    for k, prompt in enumerate(prompts):
        children = [decoder.forest.insert([200 + i], parent=prompt[-1])[-1] for i in range(1 + k % 4)]
        rows += children
        groups.append(len(children))
    plan = decoder.forward_context(np.array(rows), groups).plan
    assert plan is not None
    assert sum(isinstance(group, Batch) for group in plan.groups["full_attention"]) >= 2
    assert len(plan.groups["full_attention"]) <= 4
    logits = decoder.forward(rows, list(range(len(rows))), groups)
    for slot, row in zip(rows, logits, strict=True):
        assert torch.allclose(row, plain_logits(model, history(decoder, slot)), atol=1e-4)


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


REFUSED: dict[str, Callable[[], PretrainedConfig]] = {
    "mamba": lambda: MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4),
    "bloom": lambda: BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2),
    "mpt": lambda: MptConfig(vocab_size=64, d_model=16, n_layers=2, n_heads=2),
    "falcon-alibi": lambda: FalconConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        alibi=True,
        new_decoder_architecture=False,
    ),
    "qwen3-next": lambda: Qwen3NextConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        num_experts=0,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "recurrent-gemma": lambda: RecurrentGemmaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, lru_width=16
    ),
    "xlm": lambda: XLMConfig(vocab_size=64, emb_dim=16, n_layers=2, n_heads=2),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_share_a_trie_is_refused_by_name(family: str):
    config = REFUSED[family]()
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match=r"the policy .*Use "):
        TrieDecoder(model, "policy")


def test_where_the_rotary_frequencies_change_the_context_ends():
    """Keys from before and after that length do not fit together, so none is computed beyond it."""
    scaled = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    scaled["original_max_position_embeddings"] = 64
    model = random_model("phi3", original_max_position_embeddings=64, rope_parameters=scaled)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.context == 64
    assert grow_and_check(decoder, model, 0, 1e-4) > 40
    dynamic = random_model("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})
    decoder = TrieDecoder(dynamic, "policy", max_cache_tokens=400)
    assert decoder.context == 256
    assert grow_and_check(decoder, dynamic, 0, 1e-4) > 40
