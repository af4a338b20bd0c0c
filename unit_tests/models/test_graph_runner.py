"""When steps are captured, when replayed, and what happens where a graph cannot be trusted."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from langchain_saffron.cache import KeyValuePool
from langchain_saffron.models import graph_runner
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.graph_runner import GraphRunner, StepCounts
from langchain_saffron.models.static_step import StepOutputs
from unit_tests.families import VOCABULARY
from unit_tests.models.recordings import EagerRecording, capture_eagerly
from unit_tests.models.trees import grow_and_check
from unit_tests.tiny_models import random_model


class Wrong(EagerRecording):
    """Gives other scores than it should."""

    def replay(self) -> StepOutputs:
        outputs = super().replay()
        return StepOutputs(outputs.scores.flip(-1), outputs.tapped)


class Lost(EagerRecording):
    """Writes nothing into the pool when it is replayed."""

    def __init__(self, run: Callable[[], StepOutputs], pool: KeyValuePool) -> None:
        super().__init__(run, pool)

        def silent() -> StepOutputs:
            kept = [tensor.clone() for layer in range(3) for tensor in pool.layer(layer)[:2]]
            outputs = run()
            for tensor, old in zip((t for layer in range(3) for t in pool.layer(layer)[:2]), kept, strict=True):
                tensor.copy_(old)
            return outputs

        self._run = silent


def steps(decoder: TrieDecoder, node: int, count: int, width: int = 1) -> list[torch.Tensor]:
    """Decode so many steps of so many beams."""
    scores = []
    for i in range(count):
        rows = [decoder.forest.insert([(31 * i + 7 * k) % VOCABULARY], parent=node)[-1] for k in range(width)]
        scores.append(decoder.forward(rows, list(range(width))))
        node = rows[-1]
    return scores


def prompted(family: str = "llama", length: int = 5, **changes: Any) -> tuple[TrieDecoder, int]:
    decoder = TrieDecoder(random_model(family, **changes), "policy", max_cache_tokens=600)
    prompt = decoder.forest.insert([(3 * i) % VOCABULARY for i in range(length)])
    decoder.forward(prompt, [])
    return decoder, prompt[-1]


def runner(decoder: TrieDecoder) -> GraphRunner:
    assert decoder.graphs is not None
    return decoder.graphs


def test_each_shape_is_captured_once_and_then_replayed():
    decoder, node = prompted()
    assert capture_eagerly(decoder) is None
    steps(decoder, node, 10)
    assert runner(decoder).counts == StepCounts(replayed=9, captured=1)
    steps(decoder, node, 4, width=3)
    assert runner(decoder).counts == StepCounts(replayed=12, captured=2)
    # four rows are of the shape of three
    steps(decoder, node, 4, width=4)
    assert runner(decoder).counts == StepCounts(replayed=16, captured=2)
    decoder.forward(decoder.forest.insert([1, 2, 3]), [2])
    assert runner(decoder).counts == StepCounts(replayed=16, captured=2, dynamic=1)


def test_there_is_an_end_to_how_many_are_captured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_runner, "MOST_GRAPHS", 1)
    decoder, node = prompted()
    capture_eagerly(decoder)
    steps(decoder, node, 3)
    steps(decoder, node, 3, width=2)
    assert runner(decoder).counts == StepCounts(replayed=2, captured=1, dynamic=3)
    assert runner(decoder).graphs == 1


def test_what_moves_the_pool_makes_old_graphs_void():
    decoder, node = prompted()
    capture_eagerly(decoder)
    steps(decoder, node, 3)
    decoder.clear()
    prompt = decoder.forest.insert([5, 6, 7])
    decoder.forward(prompt, [])
    # a recording fails where the memory is no longer that of its capture
    steps(decoder, prompt[-1], 3)
    assert runner(decoder).counts == StepCounts(replayed=4, captured=2, dynamic=1)


@pytest.mark.parametrize("recording", [Wrong, Lost])
def test_one_that_differs_is_given_up_for_good(recording: type[EagerRecording], caplog: pytest.LogCaptureFixture):
    plain, node = prompted()
    expected = steps(plain, node, 4)
    decoder, node = prompted()
    decoder.capture_steps(lambda run: recording(run, decoder.pool))
    with caplog.at_level(logging.WARNING):
        found = steps(decoder, node, 4)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert runner(decoder).counts == StepCounts(dynamic=4)
    assert runner(decoder).graphs == 0
    (record,) = caplog.records
    assert "not what the dynamic forward does" in record.getMessage()
    assert "enforce_eager" in record.getMessage()


ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {"rope_parameters": ROPE}), ("mixtral", {"_experts_implementation": "eager"})],
    ids=["positions decide over frequencies", "experts look for their tokens"],
)
def test_a_forward_that_reads_from_the_device_is_not_captured(
    family: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    model = random_model(family)
    for name, value in changes.items():
        setattr(model.config, name, value)
    model = type(model)(model.config).eval()
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    capture_eagerly(decoder)
    with caplog.at_level(logging.WARNING):
        assert grow_and_check(decoder, model, 0, 1e-4) > 40
    counts = runner(decoder).counts
    assert counts.replayed == counts.captured == 0
    assert counts.dynamic == 12
    assert "reads from the device" in str(runner(decoder).failure)
    assert sum("decodes without CUDA graphs" in record.getMessage() for record in caplog.records) == 1


def test_scores_that_are_none_prove_nothing():
    """A NaN is the request's fault: it is given out, and the next step is captured."""
    decoder, node = prompted()
    capture_eagerly(decoder)
    weight = decoder.model.get_input_embeddings().weight
    kept = weight[0].clone()
    with torch.no_grad():
        weight[0] = float("nan")
        assert steps(decoder, node, 1)[0].isnan().any()
        weight[0] = kept
    steps(decoder, node, 3, width=2)
    assert runner(decoder).counts == StepCounts(replayed=2, captured=1, dynamic=1)


def test_forbidden_tokens_compare():
    decoder, node = prompted()
    with torch.no_grad():
        decoder.model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
        decoder.model.lm_head.bias[7] = -torch.inf
    capture_eagerly(decoder)
    assert torch.isneginf(torch.stack(steps(decoder, node, 3))[..., 7]).all()
    assert runner(decoder).counts == StepCounts(replayed=2, captured=1)


def test_a_cache_that_does_not_fit_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph_runner, "free_on_device", lambda device: 100_000)
    decoder, node = prompted()
    capture_eagerly(decoder)
    before = decoder.pool.allocated_bytes
    steps(decoder, node, 3)
    assert "lower max_cache_tokens" in str(runner(decoder).failure)
    assert decoder.pool.allocated_bytes == before


def test_models_for_which_nothing_is_captured():
    model = random_model("llama")
    assert "not on a device of CUDA's" in str(TrieDecoder(model, "policy").capture_steps())
    masked = TrieDecoder(random_model("llama"), "policy", attn_implementation="sdpa")
    assert "tree's own attention" in str(capture_eagerly(masked))
    from accelerate.hooks import ModelHook, add_hook_to_module

    hooked = TrieDecoder(add_hook_to_module(random_model("llama"), ModelHook()), "policy")
    assert "accelerate" in str(capture_eagerly(hooked))
    assert hooked.graphs is masked.graphs is None
