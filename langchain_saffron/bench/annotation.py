"""What annotation costs: all prefixes of an answer over a tree, against one forward of the guard a prefix."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from langchain_saffron.bench.scenario import Scenario, random_model, random_prompt
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.loading import load_causal_lm
from langchain_saffron.models.prefix_scoring import PrefixScorer
from langchain_saffron.runtime.threads import on_own_thread

KITCHEN_PRM = "kitchen PRM"
SUFFIXES = (8, 56)


@dataclass(frozen=True)
class Annotation:
    """One comparison, in seconds a conversation.

    Attributes:
        guard: Which guard.
        suffix: Tokens of its question.
        full: One forward a prefix, each over everything, without a cache.
        tree: All prefixes over a tree, several conversations together.
        difference: The largest between the outputs of the two, over the outputs' standard deviation.
    """

    guard: str
    suffix: int
    full: float
    tree: float
    difference: float


@on_own_thread
def measure_annotation(scenario: Scenario, device: str) -> list[Annotation]:
    """Compare on the kitchen's PRM and on a random guard of the reward model's shape; both in one thread."""
    annotations = []
    for name, make in (
        (KITCHEN_PRM, lambda: load_causal_lm(KITCHEN / "prm", "process reward model", device=device)),
        (scenario.guard, lambda: random_model(scenario.reward, scenario.vocabulary, 2, device, torch.float32)),
    ):
        annotations += [_compare(scenario, name, make, suffix) for suffix in SUFFIXES]
    return annotations


def _compare(scenario: Scenario, name: str, make: Callable[[], Any], suffix: int) -> Annotation:
    plain, decoder = make(), TrieDecoder(make(), name, owned=True)
    size = decoder.vocabulary
    question = random_prompt(suffix, size, seed=7)
    prompt = scenario.conversation // 5
    pairs = [
        (random_prompt(prompt, size, seed), random_prompt(scenario.conversation - prompt, size, seed + 100))
        for seed in range(scenario.conversations)
    ]
    scorer = PrefixScorer(decoder, question)
    full, tree = [], []
    with torch.inference_mode():
        scorer.outputs(pairs[:1])
        for _ in range(scenario.repeats if name == KITCHEN_PRM else 1):
            began = time.perf_counter()
            expected = _one_by_one(plain, *pairs[0], question)
            full.append(time.perf_counter() - began)
            began = time.perf_counter()
            outputs = scorer.outputs(pairs)
            tree.append((time.perf_counter() - began) / len(pairs))
        difference = float((outputs[0] - expected).abs().max() / expected.std())
    return Annotation(name, suffix, statistics.median(full), statistics.median(tree), difference)


def _one_by_one(model: Any, prompt: list[int], answer: list[int], question: list[int]) -> torch.Tensor:
    rows = []
    for length in range(1, len(answer) + 1):
        ids = torch.tensor([prompt + answer[:length] + question], device=model.device)
        rows.append(model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1])
    return torch.stack(rows).float()
