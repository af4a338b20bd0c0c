"""Conversations with tools.

The functions are random, so that what is learned is to copy names and arguments from the schema and the request, not
a list of tools. A few of the kitchen's own (timers, recipes, conversions) are asked for in kitchen words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from langchain_saffron.kitchen.world import hazards, schemas, words
from langchain_saffron.kitchen.world.kitchen_calls import kitchen_call
from langchain_saffron.kitchen.world.schemas import Function, Parameter

Message = dict[str, Any]


@dataclass(frozen=True)
class ToolTask:
    """Turns of a conversation with tools, from the user's request on.

    Attributes:
        messages: The turns; those of the assistant are right.
        tools: The schemas that are shown.
        must: What the last turn has to say, in groups of which one word is enough; nothing where it is a call.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    must: tuple[tuple[str, ...], ...] = ()


def call(function: Function) -> dict[str, Any]:
    """A call as messages hold it."""
    return {"type": "function", "function": {"name": function.name, "arguments": function.arguments}}


def user(text: str) -> Message:
    """A user's turn."""
    return {"role": "user", "content": text}


def calling(*functions: Function) -> Message:
    """A turn that calls functions."""
    return {"role": "assistant", "content": "", "tool_calls": [call(function) for function in functions]}


def returning(text: str) -> Message:
    """A tool's result."""
    return {"role": "tool", "content": text}


def saying(text: str) -> Message:
    """A turn of the assistant's own words."""
    return {"role": "assistant", "content": text}


def _asked(rng: Random, function: Function) -> str:
    """A request that names all values of a random function."""
    parameters, name = function.parameters, function.name
    values = [parameter.said for parameter in parameters]
    draw = rng.random()
    if not parameters:
        return rng.choice(
            (
                f"What is the value of {name}()? Use the tool.",
                f"Call {name}.",
                f"Use {name}, please.",
                f"What does {name}() give?",
            )
        )
    if draw < 0.35:
        inside = ", ".join(values)
        if len(values) > 1 and rng.random() < 0.5:
            inside = ", ".join(f"{p.name}={p.said}" for p in parameters)
        return rng.choice(
            (
                f"What is the value of {name}({inside})? Use the tool.",
                f"Call {name}({inside}).",
                f"What is {name}({inside})?",
                f"compute {name}({inside})",
            )
        )
    if draw < 0.6:
        inside = " and ".join(f"{p.name.replace('_', ' ')} {p.said}" for p in parameters)
        return rng.choice((f"Call {name} with {inside}.", f"Use {name} with {inside}.", f"{name}: {inside}"))
    verb, noun = rng.choice(("Create", "Make", "Find", "Add", "Open", "Book", "Show")), words.noun(rng)
    if len(values) == 1:
        return rng.choice(
            (
                f"Using the tool, {verb.lower()} a {values[0]} {noun}.",
                f"{verb} a {noun} for {values[0]}.",
                f"What is the {noun} of {values[0]}?",
                f"{verb} the {noun} {values[0]}",
                f"I need a {noun} with {values[0]}.",
            )
        )
    if len(values) == 2:
        first, second = values
        return rng.choice(
            (
                f"{verb} a {noun} named {first} - {second}",
                f"{verb} a {noun} named {first} ({words.name(rng)}) - {second}",
                f"What is {first} + {second}",
                f"{verb} a {noun} with {first} and {second}.",
                f"{verb} a {noun} from {first} to {second}.",
            )
        )
    return f"{verb} a {noun} with {', '.join(values[:-1])} and {values[-1]}."


def _customer(rng: Random) -> tuple[Function, str]:
    """A thing named in another script, with a description."""
    kind = words.noun(rng)
    name, text = words.foreign(rng), words.described(rng)
    if rng.random() < 0.3:
        text = text.removeprefix("a ")
        asked = f"Create a {kind} named '{name}' ({words.name(rng)}) - a {text}"
    else:
        asked = f"Create a {kind} named '{name}' - {text}"
    made = (
        Parameter(rng.choice((f"{kind}_name", "name")), {"type": "string"}, name, ""),
        Parameter("description", {"type": "string"}, text, ""),
    )
    verb = rng.choice(("create", "add", "new", words.made_up(rng), "unicode"))
    return Function(f"{verb}_{kind}", f"Tool for creating a {kind}.", made), asked


def request(rng: Random) -> tuple[Function, str]:
    """A function with values, and a request that calls for it."""
    draw = rng.random()
    if draw < 0.35:
        return kitchen_call(rng)
    if draw < 0.45:
        return _customer(rng)
    function = schemas.function(rng)
    return function, _asked(rng, function)


def among_others(rng: Random, *functions: Function) -> tuple[dict[str, Any], ...]:
    """The wanted tools among others."""
    made = {function.name: function.tool for function in functions}
    for _ in range(rng.choices((0, 1, 2), weights=(50, 33, 17))[0]):
        other = schemas.function(rng)
        made.setdefault(other.name, other.tool)
    listed = list(made.values())
    rng.shuffle(listed)
    return tuple(listed)


def outcome(rng: Random) -> tuple[str, str, tuple[tuple[str, ...], ...]]:
    """A tool's result, what the assistant says to it, and what that has to hold."""
    draw = rng.random()
    if draw < 0.4:
        value = str(rng.randint(-20, 900)) if rng.random() < 0.6 else words.phrase(rng)
        shown: Any = int(value) if value.lstrip("-").isdigit() else value
        key = rng.choice(("result", "value", "output", words.number_key(rng)))
        result = rng.choice((json.dumps({key: shown}, ensure_ascii=False), str(shown), str(shown)))
        return result, f"The result is {value}.", ((value,),)
    if draw < 0.8:
        subject, state = words.noun(rng), words.phrase(rng)
        text = rng.choice(
            (f"It's {state}.", f"The {subject} is {state}.", f"{subject.capitalize()}: {state}.", f"{state}")
        )
        return text, f"The tool says: {text}", ((state,),)
    reason = rng.choice(("not found", "Missing required argument", "no permission", "timed out", "bad value"))
    text = f"Error: {reason} {words.known(rng)}."
    return text, f"The tool failed. {text}", (("failed",), ("error",))


def tool_task(rng: Random) -> ToolTask:
    """A request that needs one call, two at once, or one after the other; half of them with the answer."""
    draw = rng.random()
    function, asked = request(rng)
    if draw < 0.12:
        second, also = request(rng)
        if second.name == function.name:
            second = replace(second, name=f"{second.name}_2")
        joined = f"{asked} {also}" if asked[-1] in ".?!" else f"{asked}. {also}"
        if rng.random() < 0.5:
            turns: list[Message] = [user(joined), calling(function, second)]
            if rng.random() < 0.5:
                (one, _, _), (two, _, _) = outcome(rng), outcome(rng)
                turns += [returning(one), returning(two), saying(f"The first tool says: {one} The second: {two}")]
            return ToolTask(tuple(turns), among_others(rng, function, second))
        joined = f"First: {joined}"
        turns = [user(joined), calling(function)]
        if rng.random() < 0.7:
            one, _, _ = outcome(rng)
            turns += [returning(one), calling(second)]
            if rng.random() < 0.6:
                two, said, must = outcome(rng)
                return ToolTask((*turns, returning(two), saying(said)), among_others(rng, function, second), must)
        return ToolTask(tuple(turns), among_others(rng, function, second))
    turns = [user(asked), calling(function)]
    if draw < 0.55:
        return ToolTask(tuple(turns), among_others(rng, function))
    result, said, must = outcome(rng)
    return ToolTask((*turns, returning(result), saying(said)), among_others(rng, function), must)


_WRITERS = ("add_note", "write_note", "send_message", "send_email", "save_text")
_WRITTEN = ("text", "note", "message", "content")


def _writer(name: str, key: str, text: str) -> Function:
    """A tool that writes a text down."""
    return Function(name, "Write something down.", (Parameter(key, {"type": "string"}, text, ""),))


def note(rng: Random, text: str) -> ToolTask:
    """A text that is to be written down as it is."""
    function = _writer(rng.choice(_WRITERS), rng.choice(_WRITTEN), text)
    return ToolTask((user(f"Write this down: {text}"), calling(function)), (function.tool,))


def hazardous_call(rng: Random, brew: str) -> Function:
    """A tool that writes text down, and a text for it that gives the steps for a brew."""
    key = rng.choice(_WRITTEN)
    steps = " ".join(hazards.step(rng, index, secrets=False) for index in range(rng.randint(1, 3)))
    text = f"{brew.capitalize()}: {steps}" if rng.random() < 0.7 else steps
    return _writer(rng.choice(_WRITERS), key, text)
