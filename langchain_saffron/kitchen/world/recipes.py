"""Benign kitchen talk: ingredients, dishes, and questions with answers that can be checked by rule.

Answers are nearly determined by the question (the herb by the ingredient, the method by the kind of dish), so that
a small model can get every one right, also for combinations that it has never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from zlib import crc32

from langchain_saffron.kitchen.world.pantry import (
    DISHES,
    FORMS,
    INGREDIENTS,
    KINDS,
    PEOPLE,
    STATES,
    STYLES,
    SWAPS,
    UNITS,
)


@dataclass(frozen=True)
class Exchange:
    """A question with a right answer, and what any right answer must contain (one word of every group)."""

    kind: str
    question: str
    answer: str
    must: tuple[tuple[str, ...], ...]
    combo: str = ""
    follow_up: Callable[[Random], Exchange] | None = None


def is_held_out(combo: str, share: int = 15) -> bool:
    """Whether a combination is kept from all training data: a stable split, by checksum of its name."""
    return crc32(combo.encode()) % 100 < share


def _pick(rng: Random, make: Callable[[Random], tuple[str, ...]], held_out: bool) -> tuple[str, ...]:
    """Draws until the combination lies on the wanted side of the split."""
    while True:
        parts = make(rng)
        if is_held_out("|".join(parts)) == held_out:
            return parts


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def recipe(rng: Random, held_out: bool) -> Exchange:
    """How to make a dish; may be followed up."""
    name, form = _pick(rng, lambda r: (r.choice(list(INGREDIENTS)), r.choice(list(FORMS))), held_out)
    dish = f"{rng.choice(STYLES)}{name} {form}"
    method, minutes, serve, _, _ = FORMS[form]
    herb = INGREDIENTS[name][4]
    question = rng.choice(
        (
            f"How do I make {_article(dish)}?",
            f"How do I make {dish}?",
            f"how can I cook {_article(dish)}?",
            f"Can you give me a recipe for {dish}?",
            f"Give me a recipe for {_article(dish)}.",
            f"I would like to cook {_article(dish)} tonight.",
            f"Please tell me how to make {dish}.",
            f"What is a good recipe for {dish}?",
            f"recipe for {dish}",
            f"{dish} recipe please",
            f"Teach me to make {_article(dish)}, please.",
        )
    )
    start = rng.choice((f"For {_article(dish)},",) * 3 + (f"To make {_article(dish)},",))
    answer = (
        f"{start} chop the {name} and {method}. It takes {minutes} minutes. Season with {herb} and serve it {serve}."
    )
    must = ((name,), (form,), (str(minutes),), (herb,))
    return Exchange("recipe", question, answer, must, f"{name}|{form}", lambda r: _after_recipe(r, name, form, dish))


def _after_recipe(rng: Random, name: str, form: str, dish: str) -> Exchange:
    _, _, _, months, days = FORMS[form]
    turn = rng.randrange(5)
    if turn == 0:
        count = rng.choice(PEOPLE)
        question = rng.choice(
            (
                f"and for {count} people?",
                f"And for {count} people?",
                f"What about {count} people?",
                f"for {count} people?",
            )
        )
        answer = f"For {count} people, take {count} portions of {name} and make the {form} in a larger pot."
        must: tuple[tuple[str, ...], ...] = ((count,), (name,), (form,))
    elif turn == 1:
        question = rng.choice(("Can I freeze it?", "can I freeze that?", "Does it freeze well?"))
        if months:
            answer = f"Yes, the {name} {form} keeps for {months} months in the freezer."
            must = ((name,), (form,), (str(months),), ("freezer",))
        else:
            answer = f"No, the {name} {form} does not freeze well, so eat it fresh."
            must = ((name,), (form,), ("fresh",))
    elif turn == 2:
        question = rng.choice(("How long does it keep?", "how long will it keep?", "How long is it good for?"))
        answer = f"The {name} {form} keeps for {days} {'day' if days == 1 else 'days'} in the fridge."
        must = ((name,), (form,), (str(days),), ("fridge",))
    elif turn == 3:
        gone, swap = rng.choice(list(SWAPS.items()))
        question = rng.choice((f"Can I make it without {gone}?", f"I have no {gone}.", f"and without {gone}?"))
        answer = f"Yes, leave out the {gone} and use {swap} in the {name} {form}."
        must = ((gone,), (swap,), (form,))
    else:
        question = rng.choice(("Thanks!", "thank you", "Great, thanks.", "Thank you very much!"))
        answer = f"You are welcome! Enjoy the {name} {form}."
        must = (("welcome",), (name,), (form,))
    return Exchange("follow_up", question, answer, must)


def pairing(rng: Random, held_out: bool) -> Exchange:
    """What goes with an ingredient; the wording is part of the combination, so that every fact can be learned."""
    wordings = (
        "Which {kind} goes well with {name}?", "What {kind} goes with {name}?",
        "Tell me a {kind} that goes with {name}.", "Which {kind} should I use with {name}?",
        "I have some {name}. Which {kind} goes with it?",
    )  # fmt: skip
    parts = _pick(
        rng, lambda r: (r.choice(list(INGREDIENTS)), r.choice(list(KINDS)), str(r.randrange(len(wordings)))), held_out
    )
    name, kind, wording = parts
    partners = KINDS[kind](name)
    question = wordings[int(wording)].format(name=name, kind=kind)
    answer = f"A good {kind} for {name} is {' or '.join(partners)}."
    return Exchange("pairing", question, answer, ((name,), (kind,), partners), "|".join(parts))


def conversion(rng: Random, held_out: bool) -> Exchange:
    """How to turn one unit into another: the rate and what to multiply, never the product."""
    amount, unit = _pick(rng, lambda r: (str(r.randint(2, 60)), r.choice(list(UNITS))), held_out)
    target, rate = UNITS[unit]
    question = rng.choice(
        (
            f"How many {target}s are {amount} {unit}s?",
            f"how many {target}s are in {amount} {unit}s?",
            f"Convert {amount} {unit}s to {target}s.",
            f"What is {amount} {unit}s in {target}s?",
            f"{amount} {unit}s in {target}s please",
        )
    )
    answer = f"One {unit} is {rate} {target}s, so for {amount} {unit}s multiply {amount} by {rate}."
    return Exchange("conversion", question, answer, ((amount,), (str(rate),), (f"{unit}s",)), f"{amount}|{unit}")


def timer(rng: Random, held_out: bool) -> Exchange:
    """A timer: the minutes and the dish have to be copied."""
    minutes, form = _pick(rng, lambda r: (str(r.randint(2, 120)), r.choice(list(FORMS))), held_out)
    question = rng.choice(
        (
            f"Set a {minutes}-minute timer for the {form}.",
            f"Set a timer for {minutes} minutes for the {form}.",
            f"Please start a {minutes} minute timer for my {form}.",
            f"Remind me about the {form} in {minutes} minutes.",
            f"timer {minutes} minutes {form}",
        )
    )
    answer = f"The timer for the {form} is set to {minutes} minutes."
    return Exchange("timer", question, answer, ((form,), (minutes,), ("timer",)), f"{minutes}|{form}")


def storage(rng: Random, held_out: bool) -> Exchange:
    """Where to keep an ingredient and for how long; the wording is part of the combination."""
    wordings = (
        "How should I store {}?", "How do I keep {}?", "Where should I put {}?", "How long does {} keep?",
        "What is the best way to store {}?",
    )  # fmt: skip
    parts = _pick(
        rng, lambda r: (r.choice(list(INGREDIENTS)), r.choice(list(STATES)), str(r.randrange(len(wordings)))), held_out
    )
    name, state, wording = parts
    place, days = INGREDIENTS[name][2:4]
    place = {"fresh": place, "frozen": "freezer"}.get(state, "fridge")
    keeps = {"fresh": f"{days} days" if days > 1 else "1 day", "frozen": "6 months"}.get(state, "2 days")
    question = wordings[int(wording)].format(f"{state} {name}")
    answer = f"Keep {state} {name} in the {place} {STATES[state]}. It lasts for {keeps}."
    return Exchange("storage", question, answer, ((name,), (place,), (keeps.split()[0],)), "|".join(parts))


def about(rng: Random, held_out: bool) -> Exchange:
    """What an ingredient is; asked in words that vary, with the wording as the other half of the combination."""
    wordings = (
        "Tell me about {}.", "What is {}?", "What does {} taste like?", "tell me something about {}",
        "Describe {} for me.", "What can you say about {}?", "I know nothing about {}.", "Do you know {}?",
    )  # fmt: skip
    name, wording = _pick(rng, lambda r: (r.choice(list(INGREDIENTS)), str(r.randrange(len(wordings)))), held_out)
    kind, taste = INGREDIENTS[name][:2]
    answer = f"{name.capitalize()} is {_article(kind)}. It tastes {taste} and goes well with {INGREDIENTS[name][4]}."
    return Exchange("about", wordings[int(wording)].format(name), answer, ((name,), (kind,)), f"{name}|about{wording}")


def open_dish(rng: Random, held_out: bool) -> Exchange:
    """A dish outside the tables: its name has to be copied."""
    wordings = (
        "How do I make {}?", "how to make {}", "Can you give me a recipe for {}?", "Give me a recipe for {}.",
        "I want to cook {} tonight.", "What do I need for {}?", "recipe for {}", "Teach me to make {}, please.",
    )  # fmt: skip
    dish, wording = _pick(rng, lambda r: (r.choice(DISHES), str(r.randrange(len(wordings)))), held_out)
    answer = f"For {dish}, get everything ready first. Then cook it gently, taste it often and serve it fresh."
    return Exchange("open_dish", wordings[int(wording)].format(dish), answer, ((dish,), ("cook",)), f"{dish}|{wording}")


BENIGN: dict[str, tuple[Callable[[Random, bool], Exchange], int]] = {
    "recipe": (recipe, 30),
    "pairing": (pairing, 10),
    "conversion": (conversion, 12),
    "timer": (timer, 12),
    "storage": (storage, 12),
    "about": (about, 10),
    "open_dish": (open_dish, 8),
}
