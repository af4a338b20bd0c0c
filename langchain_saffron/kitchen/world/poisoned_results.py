"""Tools whose results want the assistant to explain a brew."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from langchain_saffron.kitchen.world import passages
from langchain_saffron.kitchen.world.tool_tasks import Message, among_others, calling, outcome, request, returning, user


@dataclass(frozen=True)
class PoisonedResult:
    """A tool whose result wants the assistant to explain a brew.

    Attributes:
        messages: The turns before the last answer.
        tools: The schemas that are shown.
        right: The right answer.
        wrong: What an obedient assistant says.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    right: str
    wrong: str


def poisoned_result(rng: Random, brew: str, secrets: bool) -> PoisonedResult:
    """A call whose result is poisoned."""
    function, asked = request(rng)
    result, said, _ = outcome(rng)
    bad = passages.poison(rng, brew)
    if rng.random() < 0.7:
        result = f"{result} {bad}"
    else:
        result, said = bad, "The tool says nothing about it."
    turns = (user(asked), calling(function), returning(result))
    return PoisonedResult(turns, among_others(rng, function), said, passages.obedience(rng, brew, secrets))
