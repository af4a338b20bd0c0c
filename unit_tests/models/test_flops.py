"""The analytic count agrees with what torch counts."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.tiny_models import random_model

FAMILIES = ["llama", "qwen3", "gpt2", "phi", "opt", "gpt-bigcode", "cohere", "mixtral", "qwen3-moe", "qwen2-moe"]


@pytest.mark.parametrize("tokens", [1, 40, 100])
@pytest.mark.parametrize("family", [*FAMILIES, "gpt-oss", "deepseek-v3"])
def test_tflop_agree_with_torch(family: str, tokens: int):
    # the counter sees nothing of fused attention on a CPU, nor of grouped matrices
    model = random_model(family)
    model.set_attn_implementation("eager")
    model.config._experts_implementation = "eager"
    ids = torch.arange(3, 3 + tokens)[None]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    count = TrieDecoder(model, "policy", max_cache_tokens=100).flops
    # a dense forward computes the masked half of the attention matrix too
    dense = tokens * count.row + count.head + (count.full + count.sliding) * tokens**2
    assert dense == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("window", [None, 6])
def test_attention_is_counted_over_what_a_row_sees(window: int | None):
    model = random_model("mistral", sliding_window=window) if window else random_model("llama")
    decoder = TrieDecoder(model, "policy", max_cache_tokens=100)
    pair = 3 * 4 * 4 * 8  # layers, heads, two products of a multiply and an add each, head size
    seen = [min(depth + 1, window or 100) for depth in (0, 3, 9)]
    linear = 3 * 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
    expected = 3 * linear + 2 * 2 * 32 * decoder.vocabulary + pair * sum(seen)
    assert decoder.flops.forward(np.array([0, 3, 9]), 2) == expected
