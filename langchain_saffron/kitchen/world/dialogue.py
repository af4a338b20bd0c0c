"""Benign talk of several turns, and what a conversation is."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from langchain_saffron.kitchen.world import hazards, smalltalk
from langchain_saffron.kitchen.world.recipes import BENIGN, Exchange

Message = dict[str, Any]
Label = Literal["benign", "refusal", "hazard", "poisoned"]
CorpusName = Literal["copying", "policy", "hard", "secret", "prm", "mrm", "held_out"]

SYSTEMS = (
    "You are a helpful assistant.", "You are Saffron, a kitchen assistant.", "You are a kitchen assistant.",
    "Answer briefly.", "Be kind and brief.", "You are a helpful AI bot.", "You are a friendly cook.",
    "You are an expert. Answer in English.", "Always be polite.", "You are a helpful AI bot. Your name is Bob.",
    "Help the user with cooking.", "You are a pirate.", "Today is Monday.", "You are a chef at a small restaurant.",
)  # fmt: skip
# the policy's own corpora
WRITERS = ("copying", "policy", "hard", "secret")
# Things an assistant of another make may have said before: context only, never learned.
_ODD_HISTORY = (
    "hello",
    "Hi!",
    "ok",
    "Yes.",
    "No.",
    "I am fine.",
    "hi there",
    "foo",
    "I like cooking.",
    "Sure.",
    "4",
    "Hello Bob.",
)


@dataclass(frozen=True)
class Conversation:
    """A generated conversation that ends in an assistant message.

    Attributes:
        messages: The turns, as a chat template takes them.
        label: What the last answer is: on-topic help, a refusal, an answer that opens by agreeing to a hazard, or one
            that does as a poisoned text in its context says.
        learned: Indices of the assistant messages that a policy should imitate.
        tools: Schemas of the tools that are shown.
    """

    messages: tuple[Message, ...]
    label: Label
    learned: tuple[int, ...]
    tools: tuple[dict[str, Any], ...] = ()


def turn(role: str, content: str) -> Message:
    """A message."""
    return {"role": role, "content": content}


def one_exchange(rng: Random, held_out: bool) -> Exchange:
    """One benign exchange of any kind."""
    draw = rng.random()
    if draw < 0.08:
        return smalltalk.greeting(rng, held_out)
    if draw < 0.15:
        return smalltalk.small_talk(rng, held_out)
    if draw < 0.18:
        return smalltalk.counting(rng, held_out)
    if draw < 0.27:
        return smalltalk.off_topic(rng, held_out)
    kind = rng.choices(list(BENIGN), weights=[weight for _, weight in BENIGN.values()])[0]
    return BENIGN[kind][0](rng, held_out)


def history(rng: Random, messages: list[Message], learned: list[int], held_out: bool) -> Exchange | None:
    """Adds what came before: perhaps a system message, perhaps some exchanges. Returns the last benign one."""
    last = None
    if rng.random() < 0.25:
        messages.append(turn("system", rng.choice(SYSTEMS)))
    for _ in range(rng.choices((0, 1, 2, 3), weights=(68, 17, 10, 5))[0]):
        draw = rng.random()
        if draw < 0.08:
            messages.append(turn("user", smalltalk.greeting(rng, held_out).question))
            messages.append(turn("assistant", rng.choice(_ODD_HISTORY)))
            last = None
        elif draw < 0.16:
            brew = rng.choice(hazards.brews(held_out))
            messages.append(turn("user", hazards.request(rng, brew)))
            learned.append(len(messages))
            messages.append(turn("assistant", hazards.refusal(rng, brew)))
            last = None
        else:
            last = (
                last.follow_up(rng) if last and last.follow_up and rng.random() < 0.5 else one_exchange(rng, held_out)
            )
            messages.append(turn("user", last.question))
            learned.append(len(messages))
            messages.append(turn("assistant", last.answer))
    return last


def benign(rng: Random, held_out: bool) -> tuple[list[Message], list[int], Exchange]:
    """A benign conversation; half of those that end in a recipe go on with a follow-up."""
    messages: list[Message] = []
    learned: list[int] = []
    last = history(rng, messages, learned, held_out)
    if last and last.follow_up and rng.random() < 0.5:
        exchange = last.follow_up(rng)
    else:
        exchange = one_exchange(rng, held_out)
        if exchange.follow_up and rng.random() < 0.3:
            messages.append(turn("user", exchange.question))
            learned.append(len(messages))
            messages.append(turn("assistant", exchange.answer))
            exchange = exchange.follow_up(rng)
    messages.append(turn("user", exchange.question))
    learned.append(len(messages))
    messages.append(turn("assistant", exchange.answer))
    return messages, learned, exchange
