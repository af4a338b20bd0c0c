"""JSON schemas as shapes: what a grammar and its shortest document are made of."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Shape:
    """What a value may be. Shapes are compared by identity, as a recursive one has no end."""


@dataclass(eq=False, slots=True)
class Leaf(Shape):
    """A value that a regular language or llguidance's own reading of a schema describes.

    Attributes:
        source: The right side of a rule of Lark.
        terms: Regular expressions that have to match at once, where it is a terminal instead.
        texts: All that it may be, as JSON, where that is little.
        least: Characters that a string has at least, where it may hold any; `None` for other values.
        longest: Characters that closing it may take once it has begun, or an estimate.
    """

    source: str = ""
    terms: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    least: int | None = None
    longest: int = 64


@dataclass(eq=False, slots=True)
class Member:
    """A named property of an object."""

    name: str
    shape: Shape
    required: bool


@dataclass(eq=False, slots=True)
class Object(Shape):
    """An object: its members in order, then others.

    Attributes:
        members: Those with names.
        others: The shape of others; `None` where there can be none.
        least: How many others there are at least.
        most: How many at most; `None` for any number.
    """

    members: list[Member] = field(default_factory=list)
    others: Shape | None = None
    least: int = 0
    most: int | None = None


@dataclass(eq=False, slots=True)
class Array(Shape):
    """An array: items of their own shapes first, then items of one shape.

    Attributes:
        first: The shapes of the first items.
        rest: That of the others; `None` where there can be none.
        least: How many items there are at least.
        most: How many at most; `None` for any number.
        choices: Where items are not to repeat: the JSON of those that there are, instead of `rest`.
    """

    first: list[Shape] = field(default_factory=list)
    rest: Shape | None = None
    least: int = 0
    most: int | None = None
    choices: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class Union(Shape):
    """One of several shapes; none where there are none."""

    options: list[Shape] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Reference(Shape):
    """A shape that is read once, and may stand within itself."""

    target: Shape | None = None


def resolved(shape: Shape) -> Shape:
    """What a chain of references ends in.

    Args:
        shape: Any. A reference that leads only to itself is a union of nothing.
    """
    seen = set()
    while isinstance(shape, Reference):
        if shape.target is None or id(shape) in seen:
            return Union()
        seen.add(id(shape))
        shape = shape.target
    return shape


def schema_text(value: Any) -> str:
    """A value as answers write it."""
    return json.dumps(value, ensure_ascii=False)


def leaf_rules(leaf: Leaf, name: str) -> list[str]:
    """Lark's rules for a leaf.

    Args:
        leaf: The leaf.
        name: Of its rule.
    """
    if not leaf.terms:
        return [f"{name}: {leaf.source}"]
    # to Rust, digits of other scripts are digits
    terms = " & ".join(f"/{term}/".replace(r"\d", "[0-9]") for term in leaf.terms)
    return [f"{name}: {name.upper()}", f"{name.upper()}: {terms}"]


def leaf_grammar(leaf: Leaf) -> str:
    """A leaf as a grammar of its own."""
    return "\n".join(leaf_rules(leaf, "start")) + "\n"


def all_shapes(shape: Shape) -> list[Shape]:
    """A shape and all within it, the innermost first as far as there is one."""
    found: dict[int, Shape] = {}

    def walk(one: Shape) -> None:
        one = resolved(one)
        if id(one) in found:
            return
        found[id(one)] = one
        if isinstance(one, Union):
            inner = list(one.options)
        elif isinstance(one, Object):
            inner = [member.shape for member in one.members] + ([one.others] if one.others else [])
        elif isinstance(one, Array):
            inner = [*one.first, *([one.rest] if one.rest else [])]
        else:
            inner = []
        for each in inner:
            walk(each)

    walk(shape)
    return list(found.values())[::-1]
