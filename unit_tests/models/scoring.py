"""A guard on random models, and plain forwards to compare its rewards with."""

import random
from contextlib import contextmanager

import torch

from langchain_saffron import ProcessRewardModel
from langchain_saffron.models import prefix_scoring, row_lot
from langchain_saffron.templates.guard_prompt import GuardPrompt
from unit_tests.tiny_models import plain_logits, random_model, tiny_tokenizer

SAFE, UNSAFE = 5, 9
GUARD = GuardPrompt.of_strings("Q: ", "\nA:", "\nSafe?", safe=SAFE, unsafe=UNSAFE)
SUFFIX = GUARD.suffix_ids(tiny_tokenizer())

# rows that attend together, rows in a forward, tokens that share forwards
USUAL, SMALL, UNEVEN, ONE = (128, 1024, 4096), (10, 20, 60), (7, 33, 4096), (1, 1, 1)
Pairs = list[tuple[list[int], list[int]]]


def guard_prm(model=None, **options):
    return ProcessRewardModel.from_pretrained(model or random_model(), GUARD, tokenizer=tiny_tokenizer(), **options)


def tokens(count, seed=0, low=20):
    """Random ids, none of which is in the question or a verdict."""
    known = [i for i in range(low, 300) if i not in SUFFIX]
    return random.Random(seed).choices(known, k=count)


def plain_rewards(model, prompt, answer, suffix=SUFFIX, safe=SAFE, unsafe=UNSAFE):
    """By one full forward a prefix."""
    logits = [plain_logits(model, [*prompt, *answer[: i + 1], *suffix]) for i in range(len(answer))]
    return torch.stack([row[safe] - row[unsafe] for row in logits]).float()


def sizes(monkeypatch, group, forward, lot):
    monkeypatch.setattr(prefix_scoring, "GROUP_ROWS", group)
    for module in (prefix_scoring, row_lot):
        monkeypatch.setattr(module, "MOST_ROWS", forward)
    monkeypatch.setattr(prefix_scoring, "LOT_TOKENS", lot)


def check(prm, pairs, expected, tolerance=1e-4):
    found = prm.score(pairs)
    assert prm.decoder.forest.used == 0
    for i, (rewards, wanted) in enumerate(zip(found, expected, strict=True)):
        assert rewards.dtype == torch.float32
        assert rewards.device.type == "cpu"
        assert torch.allclose(rewards, wanted, atol=tolerance, rtol=0), i


@contextmanager
def forwards(prm):
    """The rows of every forward that the model runs meanwhile."""
    rows = []

    def count(module, args, options):
        rows.append(options["input_ids"].numel())

    handle = prm.decoder.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def awkward_pairs() -> Pairs:
    """Answers that share, repeat and quote: the trie holds each piece once, every prefix has its own reward."""
    prompt, answer = tokens(9, 1), tokens(14, 2)
    return [
        (prompt, answer),
        (prompt, answer),
        (prompt, answer[:6]),
        (prompt, [*answer[:3], *SUFFIX, *SUFFIX, *SUFFIX[:2], *answer[:2], *SUFFIX]),
        (prompt, SUFFIX * 2),
        ([*prompt, *answer[:4]], answer[4:8]),
        (tokens(3, 3), tokens(1, 4)),
    ]


TURNS = [("user", "How do I cook rice?")]
