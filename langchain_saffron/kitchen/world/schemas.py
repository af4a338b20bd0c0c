"""Random function schemas, in the form that LangChain writes, with values for their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from langchain_saffron.kitchen.world import words

_VERBS = (
    "get", "set", "find", "make", "create", "add", "send", "book", "order", "compute", "magic", "list", "check",
    "convert", "start", "update", "search", "read", "open", "count", "my", "look_up", "calculate", "show",
)  # fmt: skip
_NOUNS = (
    "weather", "timer", "customer", "recipe", "function", "price", "stock", "table", "note", "email", "adder", "tool",
    "number", "city", "color", "picker", "order", "item", "user", "time", "menu", "unicode", "greeting", "file",
)  # fmt: skip
_STRINGS = (
    "location", "city", "name", "customer_name", "query", "text", "title", "answer_style", "color", "description",
    "dish", "unit", "ingredient", "topic", "language", "person", "message", "place", "subject", "item",
)  # fmt: skip
_NUMBERS = ("a", "b", "x", "y", "input", "n", "value", "count", "minutes", "amount", "year", "size", "number", "first")
_DOCS = (
    "{verb} the {noun}.", "{verb} a {noun} for the user.", "Use this to {verb} a {noun}.", "The {noun} tool.",
    "{verb} something about the {noun}.",
)  # fmt: skip
KINDS = ("string", "integer", "number", "boolean", "array", "enum")


@dataclass(frozen=True)
class Parameter:
    """One parameter: its JSON schema, a value for it, and that value as a user would write it."""

    name: str
    schema: dict[str, Any]
    value: Any
    said: str


@dataclass(frozen=True)
class Function:
    """A made-up function with values for one call."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]

    @property
    def tool(self) -> dict[str, Any]:
        """The schema as `convert_to_openai_tool` writes it."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": object_of(self.parameters)},
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """The call's arguments."""
        return {parameter.name: parameter.value for parameter in self.parameters}


def object_of(parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    """A JSON schema of an object."""
    schema: dict[str, Any] = {"properties": {parameter.name: parameter.schema for parameter in parameters}}
    if parameters:
        schema["required"] = [parameter.name for parameter in parameters]
    return {**schema, "type": "object"}


def identifier(rng: Random) -> str:
    """A function's name, mostly in snake case."""
    draw = rng.random()
    if draw < 0.25:
        parts = [words.made_up(rng) for _ in range(rng.randint(1, 2))]
    else:
        parts = [rng.choice(_VERBS), rng.choice(_NOUNS) if rng.random() < 0.75 else words.made_up(rng)]
        if rng.random() < 0.2:
            parts.append(rng.choice(_NOUNS))
    if rng.random() < 0.12:
        return "".join(part.capitalize() for part in "_".join(parts).split("_"))
    name = "_".join(parts)
    if rng.random() < 0.1:
        name += rng.choice(("_no_args", "_tool", "_2", "_function"))
    return name


def text_value(rng: Random) -> str:
    """A string of any kind."""
    draw = rng.random()
    if draw < 0.35:
        return words.name(rng)
    if draw < 0.5:
        return words.foreign(rng)
    if draw < 0.8:
        return words.phrase(rng)
    return words.made_up(rng)


def parameter(rng: Random, taken: set[str], kind: str | None = None) -> Parameter:
    """A parameter whose name is not taken yet."""
    kind = kind or rng.choices(KINDS, weights=(45, 25, 8, 6, 6, 10))[0]
    while True:
        numeric = kind in ("integer", "number")
        known = _NUMBERS if numeric else _STRINGS
        name = rng.choice(known) if rng.random() < 0.75 else words.made_up(rng)
        if name not in taken:
            break
    taken.add(name)
    schema: dict[str, Any] = {}
    if rng.random() < 0.25:
        schema["description"] = f"the {name.replace('_', ' ')}"
    value: Any
    if kind == "string":
        value = text_value(rng)
        said = f"'{value}'" if rng.random() < 0.5 else value
    elif kind == "integer":
        value = rng.randint(0, 9) if rng.random() < 0.4 else rng.randint(-50, 2000)
        said = str(value)
    elif kind == "number":
        value = round(rng.uniform(0, 100), rng.randint(1, 2))
        said = str(value)
    elif kind == "boolean":
        value = rng.random() < 0.5
        said = "true" if value else "false"
    elif kind == "array":
        value = [words.known(rng) if rng.random() < 0.6 else words.made_up(rng) for _ in range(rng.randint(1, 3))]
        said = " and ".join(value) if len(value) < 3 else f"{value[0]}, {value[1]} and {value[2]}"
        return Parameter(name, {**schema, "items": {"type": "string"}, "type": "array"}, value, said)
    else:
        choices = sorted({words.known(rng) for _ in range(rng.randint(2, 4))})
        value = rng.choice(choices)
        return Parameter(name, {**schema, "enum": choices, "type": "string"}, value, value)
    return Parameter(name, {**schema, "type": kind}, value, said)


def parameters(rng: Random, most: int = 4) -> tuple[Parameter, ...]:
    """Up to `most` parameters, mostly one or two."""
    taken: set[str] = set()
    count = min(most, rng.choices((0, 1, 2, 3, 4), weights=(10, 40, 32, 12, 6))[0])
    return tuple(parameter(rng, taken) for _ in range(count))


def function(rng: Random, made: tuple[Parameter, ...] | None = None) -> Function:
    """A random function."""
    name = identifier(rng)
    verb, noun = rng.choice(_VERBS).replace("_", " "), rng.choice(_NOUNS)
    text = rng.choice(_DOCS).format(verb=verb, noun=noun)
    return Function(name, text[0].upper() + text[1:], parameters(rng) if made is None else made)
