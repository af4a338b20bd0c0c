"""Searches driven by tables of numbers, without any model."""

import math
from collections.abc import Callable, Sequence

import torch

from langchain_saffron.search import Answer, Expand, Node, Scores, Search
from langchain_saffron.search.rewards import RewardTable
from langchain_saffron.search.rules import Rules


def response(node: Node) -> tuple[int, ...]:
    """The tokens of a node's prefix."""
    tokens: list[int] = []
    while node.parent is not None:
        tokens.append(node.token)
        node = node.parent
    return tuple(reversed(tokens))


def drive(
    search: Search,
    logits: Callable[[tuple[int, ...]], Sequence[float]],
    rewards: Callable[[tuple[int, ...]], Sequence[float]] | None = None,
    on_expand: Callable[[Expand], None] | None = None,
    prm: Callable[[tuple[int, ...]], float] | None = None,
    room: Callable[[Expand], int] | None = None,
) -> Answer:
    """Answer a search's requests from functions of the response so far; `room` says for how many nodes there is any."""
    try:
        expand = next(search)
    except StopIteration as end:
        return end.value
    while True:
        if on_expand:
            on_expand(expand)
        if room and expand.least is not None:
            count = max(expand.nodes, expand.prm_nodes, key=len)
            expand = expand.first(max(min(room(expand), len(count)), min(expand.least, len(count))))
        prefixes = [response(node) for node in expand.nodes]
        scores = Scores(
            torch.tensor([list(logits(p)) for p in prefixes]),
            None
            if rewards is None or not prefixes
            else RewardTable(torch.tensor([list(rewards(p)) for p in prefixes])),
            None if prm is None else torch.tensor([prm(response(node)) for node in expand.prm_nodes]),
        )
        try:
            expand = search.send(scores)
        except StopIteration as end:
            return end.value


def chances(**of_token: float) -> list[float]:
    """Logits whose softmax is the given probabilities: `chances(t0=0.5, t3=0.5)` over five tokens."""
    values = [-math.inf] * 5
    for name, value in of_token.items():
        values[int(name[1:])] = float(torch.log(torch.tensor(value)))
    return values


def rules(**changes: object) -> Rules:
    """Rules of a selection, with some of them changed; token 4 ends a turn."""
    values: dict[str, object] = {
        "end_tokens": torch.tensor([4]),
        "seen": None,
        "soft": False,
        "top_p": 0.8,
        "temperature": None,
        "paper": False,
        "threshold": 2.0,
        "weight": 3.0,
        "refusal_threshold": None,
    }
    return Rules(**{**values, **changes})  # type: ignore[arg-type]
