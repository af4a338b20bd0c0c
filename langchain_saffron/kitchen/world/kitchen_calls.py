"""The kitchen's own tools (timers, recipes, conversions, weather, notes), and how a cook asks for them."""

from __future__ import annotations

from random import Random

from langchain_saffron.kitchen.world import words
from langchain_saffron.kitchen.world.pantry import FORMS, INGREDIENTS, UNITS
from langchain_saffron.kitchen.world.schemas import Function, Parameter


def kitchen_call(rng: Random) -> tuple[Function, str]:
    """One of the kitchen's own tools and how a cook asks for it."""
    form, name = rng.choice(list(FORMS)), rng.choice(list(INGREDIENTS))
    draw = rng.randrange(5)
    if draw == 0:
        minutes = rng.randint(2, 120)
        keys = rng.choice((("minutes", "dish"), ("dish", "minutes"), ("minutes", "label")))
        values = {"minutes": minutes, "dish": form, "label": form}
        asked = rng.choice(
            (
                f"Set a {minutes}-minute timer for the {form}.",
                f"Set a timer for {minutes} minutes for the {form}.",
                f"Please start a {minutes} minute timer for my {form}.",
                f"Remind me about the {form} in {minutes} minutes.",
            )
        )
        made = tuple(
            Parameter(key, {"type": "integer" if key == "minutes" else "string"}, values[key], "") for key in keys
        )
        return Function(rng.choice(("set_timer", "start_timer", "timer")), "Set a kitchen timer.", made), asked
    if draw == 1:
        dish = rng.choice((f"{name} {form}", f"{name} {form}", words.made_up(rng)))
        key = rng.choice(("dish", "query", "name"))
        asked = rng.choice(
            (
                f"How do I make {dish}? Look it up.",
                f"Find a recipe for {dish}.",
                f"Look up the recipe for {dish}.",
                f"Search for {dish}.",
                f"Is there a recipe for {dish}?",
            )
        )
        made = (Parameter(key, {"type": "string"}, dish, ""),)
        tool = rng.choice(("find_recipe", "search_recipes", "look_up_recipe", "recipe_search"))
        return Function(tool, "Find a recipe by name.", made), asked
    if draw == 2:
        amount, unit = rng.randint(2, 60), rng.choice(list(UNITS))
        target = UNITS[unit][0]
        asked = rng.choice(
            (
                f"How many {target}s are {amount} {unit}s?",
                f"Convert {amount} {unit}s to {target}s.",
                f"What is {amount} {unit}s in {target}s?",
            )
        )
        made = (
            Parameter("amount", {"type": rng.choice(("number", "integer"))}, amount, ""),
            Parameter("unit", {"type": "string"}, unit, ""),
        )
        return Function(rng.choice(("convert", "convert_units")), "Convert a kitchen unit.", made), asked
    if draw == 3:
        place = words.name(rng)
        key = rng.choice(("location", "city", "place"))
        asked = rng.choice(("What is the weather in {}?", "how is the weather in {}?", "Weather in {}?")).format(place)
        made = (Parameter(key, {"type": "string"}, place, ""),)
        doc = rng.choice(("Get the weather at a location.", "Get the weather for a city.", "The current weather."))
        return Function(rng.choice(("get_weather", "weather", "current_weather")), doc, made), asked
    text = words.phrase(rng)
    key = rng.choice(("text", "note", "item", "message"))
    asked = rng.choice(("Write a note: {}.", "Note down {}.", "Add {} to my list.", "Send a message: {}.")).format(text)
    made = (Parameter(key, {"type": "string"}, text, ""),)
    return Function(
        rng.choice(("add_note", "write_note", "send_message", "add_item")), "Write something down.", made
    ), asked
