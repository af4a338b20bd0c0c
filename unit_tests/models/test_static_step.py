"""Decode steps of fixed shape, run on the CPU as a CUDA graph would run them, equal the dynamic forward."""

import itertools

import numpy as np
import pytest
import torch

from langchain_saffron.cache.decode_step import DecodeStep
from langchain_saffron.cache.static_inputs import StaticInputs
from langchain_saffron.cache.step_bucket import LEAST_VISIBLE, MOST_ROWS, StepBucket
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.models.static_step import StaticStep
from unit_tests.families import CORE, VOCABULARY, mostly_slow
from unit_tests.models.recordings import capture_eagerly
from unit_tests.models.trees import grow_and_check
from unit_tests.tiny_models import random_model

# grouped and multi-query heads, windows, a soft cap, sinks with experts, learned positions, partial rotation
SHAPES = ["llama", "gemma2", "gpt-oss", "gpt-neox", "gpt2"]
# besides: positions with an offset, layers without any, experts, one kv head, windows of every kind
WHOLE = [*CORE, "opt", "smollm3", "qwen2-moe", "gpt-bigcode", "cohere2", "phi3", "llama-yarn-rope"]


def two_decoders(family: str, **changes: object) -> tuple[TrieDecoder, TrieDecoder]:
    """The same model twice: with steps as they come, and of fixed shape."""
    plain, fixed = (TrieDecoder(random_model(family, **changes), "policy", max_cache_tokens=500) for _ in range(2))
    assert capture_eagerly(fixed) is None
    return plain, fixed


def three_requests(decoder: TrieDecoder) -> list[int]:
    """Prompts of different length, two of which share their beginning, read; the tips."""
    first = decoder.forest.insert([(7 * i) % VOCABULARY for i in range(40)])
    second = decoder.forest.insert([*((7 * i) % VOCABULARY for i in range(12)), 3, 5, 9])
    third = decoder.forest.insert([11, 200, 31])
    new = [slot for slot in second if slot not in first]
    decoder.forward([*first, *new, *third], [], [len(first), len(new), len(third)])
    return [first[-1], second[-1], third[-1]]


def children(decoder: TrieDecoder, tips: list[int], counts: list[int]) -> list[int]:
    """So many new nodes below each tip."""
    return [
        decoder.forest.insert([(tip + 17 * i) % VOCABULARY], parent=tip)[-1]
        for tip, count in zip(tips, counts, strict=True)
        for i in range(count)
    ]


def stored(decoder: TrieDecoder) -> torch.Tensor:
    """All keys and values, [layers · 2 · kv heads, slots, size]."""
    layers = range(decoder.model.config.num_hidden_layers)
    return torch.cat([tensor for layer in layers for tensor in decoder.pool.layer(layer)[:2]])


@pytest.mark.parametrize("family", mostly_slow(WHOLE))
def test_random_trees_equal_full_forwards(family: str):
    model = random_model(family)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert capture_eagerly(decoder) is None
    assert grow_and_check(decoder, model, 0, 1e-4) > 40
    assert decoder.graphs is not None
    assert decoder.graphs.failure is None
    counts = decoder.graphs.counts
    assert counts.captured >= 3
    assert counts.replayed >= 3
    assert counts.dynamic == 3


@pytest.mark.parametrize("family", SHAPES)
def test_scores_and_cache_are_those_of_the_dynamic_forward(family: str):
    plain, fixed = two_decoders(family)
    results = []
    for decoder in (plain, fixed):
        tips, scores = three_requests(decoder), []
        for counts in ([1, 1, 1], [3, 1, 2], [2, 2, 1], [1, 2, 3], [1, 1, 1], [4, 2, 1]):
            rows = children(decoder, tips, counts)
            # not all of them, and in an order of their own
            scores.append(decoder.forward(rows, list(range(len(rows)))[::-2], counts))
            ends = list(itertools.accumulate(counts))
            tips = [rows[end - 1] for end in ends]
        results.append((scores, stored(decoder)))
    (expected, held), (found, kept) = results
    assert max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) < 1e-4
    used = plain.forest.filled
    assert torch.allclose(held[:, :500][:, used[: held.shape[1]].nonzero()[0]], kept[:, used.nonzero()[0]], atol=1e-4)
    assert fixed.graphs is not None
    assert fixed.graphs.failure is None
    assert fixed.graphs.counts.replayed >= 2
    assert fixed.graphs.counts.captured >= 2


def test_a_step_touches_its_own_slots_and_the_scratch_slot_alone():
    _, decoder = two_decoders("llama")
    tips = three_requests(decoder)
    for _ in range(2):
        rows = children(decoder, tips, [1, 1, 1])
        decoder.forward(rows, [0, 1, 2], [1, 1, 1])
        tips = rows
    rows, before = children(decoder, tips, [1, 1, 1]), stored(decoder).clone()
    decoder.forward(rows, [0, 1, 2], [1, 1, 1])
    assert decoder.graphs is not None
    assert decoder.graphs.counts.replayed == 2
    changed = (stored(decoder) != before).any(dim=-1).any(dim=0).nonzero()[:, 0].tolist()
    assert set(rows) <= set(changed) <= {*rows, decoder.pool.scratch}
    assert decoder.pool.scratch == 500 == stored(decoder).shape[1] - 1


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@torch.inference_mode()
def test_nobody_reads_the_scratch_slot(family: str):
    """What lies there may be NaN: four rows fill their shape, so that no padding writes to it."""
    _, decoder = two_decoders(family)
    tips = three_requests(decoder)[:2]
    for _ in range(2):
        rows = children(decoder, tips, [2, 2])
        decoder.forward(rows, [0, 1, 2, 3], [2, 2])
    assert decoder.graphs is not None
    assert decoder.graphs.counts.replayed == 1
    for layer in range(3):
        for tensor in decoder.pool.layer(layer)[:2]:
            tensor[:, decoder.pool.scratch] = float("nan")
    rows = children(decoder, rows[::2], [2, 2])
    assert decoder.forward(rows, [0, 1, 2, 3], [2, 2]).isfinite().all()
    assert decoder.graphs.counts.replayed == 2


@pytest.mark.parametrize("counts", [[5], [3, 1, 1], [1, 4]])
def test_padding_repeats_the_first_row(counts: list[int]):
    _, decoder = two_decoders("mistral")
    tips = three_requests(decoder)[: len(counts)]
    slots = np.array(children(decoder, tips, counts))
    step = DecodeStep.of(decoder.forest, slots, [1], counts)
    assert step is not None
    assert step.bucket.rows > len(slots)
    decoder.pool.reserve()
    device = torch.device("cpu")
    static = StaticStep(
        decoder.compute, decoder.pool, step.bucket, decoder._kinds, 7, device, torch.float32, states=False, tap=None
    )
    with torch.inference_mode():
        static.fill(step)
        scores = static.run().scores
        expected = decoder.forward(slots.tolist(), [1, 0], counts)
    assert scores.shape[0] == step.bucket.rows
    assert torch.allclose(scores[0], expected[0], atol=1e-4)
    assert torch.allclose(scores[1:], expected[1].expand(len(scores) - 1, -1), atol=1e-4)
    inputs = StaticInputs(step.bucket, decoder._kinds, 7, device)
    inputs.fill(step, decoder.pool.scratch)
    assert inputs.write.tolist() == [*slots.tolist(), *[500] * (step.bucket.rows - len(slots))]
    assert 500 not in inputs._views["slots"]


@pytest.mark.parametrize("states", [False, True])
def test_states_and_what_a_tap_takes_are_the_same(states: bool):
    plain, fixed = two_decoders("qwen3")
    found = []
    for decoder in (plain, fixed):
        decoder.tap = LayerTap(decoder.model, 2)
        tips = three_requests(decoder)
        for _ in range(3):
            rows = children(decoder, tips, [1, 1, 1])
            scores = decoder.forward(rows, [2, 0], [1, 1, 1], states)
            found.append((scores, decoder.tap.take((0, torch.tensor([2, 0, 1])))))
            tips = rows
    for (scores, tapped), (other, others) in zip(found[:3], found[3:], strict=True):
        assert torch.allclose(scores, other, atol=1e-4)
        assert torch.allclose(tapped, others, atol=1e-4)
    assert fixed.graphs is not None
    assert fixed.graphs.counts.replayed == 2
    assert fixed.graphs.failure is None


def test_shapes_are_few():
    assert StepBucket.around([1], 5) == StepBucket(1, 1, 1, LEAST_VISIBLE)
    assert StepBucket.around([16], 1100) == StepBucket(16, 1, 16, 2048)
    assert StepBucket.around([4, 4, 3], 300) == StepBucket(16, 4, 4, 512)
    assert StepBucket.around([2], 300) == StepBucket.around([4], 400) == StepBucket(4, 1, 4, 512)
    # many rows of one request beside few of others
    assert StepBucket.around([64, 1, 1, 1], 300) == StepBucket(128, 4, 64, 512)
    assert StepBucket.around([16, 1, 1, 1, 1], 300) == StepBucket(64, 8, 16, 512)
    everyday = {
        StepBucket.around([wide] * count, seen) for wide in range(1, 17) for count in range(1, 17) for seen in (9, 600)
    }
    assert len(everyday) <= 36
    assert StepBucket.around([MOST_ROWS], 300) is not None
    assert StepBucket.around([MOST_ROWS, 1], 300) is None
    assert StepBucket.around([1] * 64, 2000) is None
    assert StepBucket.around([256], 16_385) is None


def test_what_is_no_decode_step():
    """A prompt, or a chain of new tokens; nothing scored."""
    decoder = TrieDecoder(random_model("llama"), "policy", max_cache_tokens=100)
    prompt = np.array(decoder.forest.insert([1, 2, 3]))
    assert DecodeStep.of(decoder.forest, prompt, [2], [3]) is None
    assert DecodeStep.of(decoder.forest, prompt[:1], [], [1]) is None
    assert DecodeStep.of(decoder.forest, prompt[:1], [0], [1]) is not None
