"""Trees of tokens in a decoder, grown at random and compared with full forwards."""

import random

import torch

from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.families import VOCABULARY
from unit_tests.tiny_models import plain_logits


def history(decoder: TrieDecoder, node: int) -> list[int]:
    """The tokens up to a node."""
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
