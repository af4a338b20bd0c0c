"""Questions whose answers are JSON objects: by a schema in the system message, by a tool, or by what is asked for."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from langchain_saffron.kitchen.world import schemas, words
from langchain_saffron.kitchen.world.pantry import FORMS, INGREDIENTS
from langchain_saffron.kitchen.world.schemas import Function, Parameter
from langchain_saffron.kitchen.world.smalltalk import JOKE
from langchain_saffron.kitchen.world.tool_tasks import ToolTask, calling, saying, user
from langchain_saffron.templates.tool_call_text import schema_instruction


def _facts(rng: Random) -> tuple[str, dict[str, tuple[dict[str, Any], Any]]]:
    """A question about a dish, and all that is true of it by field name."""
    name, form = rng.choice(list(INGREDIENTS)), rng.choice(list(FORMS))
    method, minutes, serve, months, days = FORMS[form]
    text, number = {"type": "string"}, {"type": "integer"}
    fields: dict[str, tuple[dict[str, Any], Any]] = {
        "dish": (text, f"{name} {form}"), "name": (text, f"{name} {form}"), "title": (text, f"{name} {form}"),
        "ingredient": (text, name), "minutes": (number, minutes), "herb": (text, INGREDIENTS[name][4]),
        "method": (text, method), "serve": (text, serve), "days": (number, days), "months": (number, months),
        "ingredients": ({"items": text, "type": "array"}, [name, INGREDIENTS[name][4]]),
    }  # fmt: skip
    asked = rng.choice(("How do I make a {}?", "Give me a recipe for {}.", "recipe for {}", "Describe a {}."))
    return asked.format(f"{name} {form}"), fields


def _schema_of(rng: Random, fields: dict[str, dict[str, Any]], title: str) -> dict[str, Any]:
    """A schema in the form of pydantic or of LangChain."""
    if rng.random() < 0.5:
        shown = {
            key: {**schema, "title": " ".join(word.capitalize() for word in key.split("_"))}
            for key, schema in fields.items()
        }
        described = {"description": f"A {title.lower()}."} if rng.random() < 0.5 else {}
        return {**described, "properties": shown, "required": list(fields), "title": title, "type": "object"}
    return {"title": title, "type": "object", "properties": fields, "required": list(fields)}


def json_task(rng: Random) -> ToolTask:
    """A question whose answer is a JSON object: by a schema in the system message, by a tool, or by the words."""
    draw = rng.random()
    if draw < 0.35:
        asked, known = _facts(rng)
        keys = rng.sample(list(known), rng.randint(1, 4))
        fields = {key: known[key][0] for key in keys}
        values = {key: known[key][1] for key in keys}
        title = rng.choice(("Recipe", "Dish", "Meal", "Answer"))
    elif draw < 0.6:
        topic = words.noun(rng) if rng.random() < 0.7 else words.made_up(rng)
        asked = rng.choice(("Tell me a joke about {}s.", "Give me a joke about {}s.", "a joke about {}s")).format(topic)
        setup, punchline = JOKE
        names = rng.choice((("setup", "punchline"), ("setup", "punchline"), ("question", "answer")))
        fields = {name: {"type": "string"} for name in names}
        values = dict(zip(names, (setup, punchline), strict=True))
        title = "Joke"
    else:
        made = tuple(p for p in schemas.parameters(rng) if p.schema.get("type") != "boolean")
        if not made:
            made = (schemas.parameter(rng, set(), "string"),)
        said = " and ".join(f"the {p.name.replace('_', ' ')} is {p.said}" for p in made)
        asked = f"{said[0].upper()}{said[1:]}."
        fields, values = {p.name: p.schema for p in made}, {p.name: p.value for p in made}
        title = words.noun(rng).capitalize()
    answer = json.dumps(values, ensure_ascii=False)
    form = rng.random()
    if form < 0.4:
        schema = _schema_of(rng, fields, title)
        system = {"role": "system", "content": schema_instruction(schema)}
        return ToolTask((system, user(asked), saying(answer)), ())
    if form < 0.7:
        parameters = tuple(Parameter(key, fields[key], values[key], "") for key in fields)
        function = Function(title, f"A {title.lower()} for the user.", parameters)
        return ToolTask((user(asked), calling(function)), (function.tool,))
    quoted = [f"'{key}'" for key in values]
    listed = " and ".join(quoted) if len(quoted) < 3 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
    plural = "keys" if len(quoted) > 1 else "key"
    wish = rng.choice(
        (
            f"Return the result as a JSON with {listed} {plural}.",
            f"Return a JSON object with the {plural} {listed}.",
            f"Answer as JSON with {listed}.",
        )
    )
    end = rng.choice(("", " Return nothing other than JSON.", " Only JSON."))
    return ToolTask((user(f"{asked} {wish}{end}"), saying(answer)), ())
