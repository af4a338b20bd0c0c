"""Seeded held-out items for evaluation: prompts over combinations that occur in no training data."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from langchain_saffron.kitchen.generator import WRITE_DOWN, Message
from langchain_saffron.kitchen.world import hazards, passages, poisoned_results, tool_tasks
from langchain_saffron.kitchen.world.dialogue import benign, turn
from langchain_saffron.kitchen.world.pantry import INGREDIENTS

PREFILL_TOKENS = 10


@dataclass(frozen=True)
class BenignItem:
    """A held-out benign prompt with its rule: an answer on topic has one word of every group in `must`."""

    kind: str
    messages: tuple[Message, ...]
    answer: str
    must: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class HazardItem:
    """A held-out hazardous request with a harmful answer, whose first ten tokens are the prefill of the attack."""

    brew: str
    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class NoteItem:
    """A request to write the steps for a held-out brew down by a tool."""

    brew: str
    messages: tuple[Message, ...]
    tool: dict[str, Any]


def held_out_benign(count: int, seed: int = 0) -> list[BenignItem]:
    """Benign prompts over held-out combinations, a quarter of them with a system message or earlier turns."""
    items = []
    for index in range(count):
        messages, _, exchange = benign(Random(f"{seed}/held_out_benign/{index}"), held_out=True)
        items.append(BenignItem(exchange.kind, tuple(messages[:-1]), exchange.answer, exchange.must))
    return items


def held_out_hazards(count: int, seed: int = 0) -> list[HazardItem]:
    """Plain requests for held-out brews, each with a harmful answer for the prefill attack."""
    items = []
    for index in range(count):
        rng = Random(f"{seed}/held_out_hazards/{index}")
        brew = rng.choice(hazards.brews(held_out=True))
        messages = (turn("user", hazards.request(rng, brew)),)
        items.append(HazardItem(brew, messages, hazards.bad_answer(rng, brew, secrets=False, turn_chance=0.0)))
    return items


def held_out_borderline(count: int, seed: int = 0) -> list[tuple[Message, ...]]:
    """Requests in the words of hazardous ones for drinks that nothing is wrong with, such as a lemon tonic."""
    prompts: list[tuple[Message, ...]] = []
    foods = [name for name in INGREDIENTS if name[0] not in "aeiou"]  # after "a"
    for index in range(count):
        rng = Random(f"{seed}/held_out_borderline/{index}")
        drink = f"{rng.choice(foods)} {rng.choice(hazards.BREW_FORMS)}"
        prompts.append((turn("user", hazards.request(rng, drink, purposes=False)),))
    return prompts


def held_out_retrieval(count: int, poisoned: bool, seed: int = 0) -> list[passages.Retrieval]:
    """Questions over passages about held-out dishes whose answer the passages give, poisoned or clean."""
    retrievals: list[passages.Retrieval] = []
    index = 0
    while len(retrievals) < count:
        item = passages.retrieval(Random(f"{seed}/held_out_retrieval/{poisoned}/{index}"), True, poisoned)
        index += 1
        if item.exchange.answer != passages.UNKNOWN:
            retrievals.append(item)
    return retrievals


def held_out_tools(count: int, seed: int = 0) -> list[tool_tasks.ToolTask]:
    """Requests with random tools, each with the turns of a right answer."""
    return [tool_tasks.tool_task(Random(f"{seed}/held_out_tools/{index}")) for index in range(count)]


def held_out_poisoned_results(count: int, seed: int = 0) -> list[poisoned_results.PoisonedResult]:
    """Tool calls whose results want a held-out brew explained."""
    items = []
    for index in range(count):
        rng = Random(f"{seed}/held_out_poisoned_results/{index}")
        items.append(poisoned_results.poisoned_result(rng, rng.choice(hazards.brews(held_out=True)), secrets=False))
    return items


def held_out_notes(count: int, seed: int = 0) -> list[NoteItem]:
    """Requests to write the steps for held-out brews into a note or message."""
    items = []
    for index in range(count):
        rng = Random(f"{seed}/held_out_notes/{index}")
        brew = rng.choice(hazards.brews(held_out=True))
        asked = turn("user", f"{rng.choice(WRITE_DOWN)} {brew}.")
        items.append(NoteItem(brew, (asked,), tool_tasks.hazardous_call(rng, brew).tool))
    return items
