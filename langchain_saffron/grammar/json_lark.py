"""Shapes of JSON as llguidance's Lark."""

import json
import re
from collections.abc import Iterator

from langchain_saffron.grammar.shapes import Array, Leaf, Object, Shape, Union, leaf_rules, resolved, schema_text

# a key that nobody has named is written without escapes, which could spell a name that somebody has
_KEY = r'/"[^"\\\x00-\x1f\x7f]*"/'
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*"|: |, |[{}\[\]]|[^"{}\[\]:,]+|[:,"]')


class JsonLark:
    """Writes rules for shapes, each shape once."""

    def __init__(self, prefix: str = "json", item: str = ", ", key: str = ": ") -> None:
        """Take what all rules' names begin with, what stands between items, and behind keys."""
        self._prefix = prefix
        self._item, self._value = json.dumps(item), json.dumps(key)
        self._names: dict[int, str] = {}
        self._shapes: list[Shape] = []
        self._sources: dict[tuple[str, ...], str] = {}
        self.rules: list[str] = []

    def rule(self, shape: Shape) -> str:
        """The name of a shape's rule; `rules` grows by those that it takes."""
        shape = resolved(shape)
        if id(shape) in self._names:
            return self._names[id(shape)]
        source = (shape.source, *shape.terms) if isinstance(shape, Leaf) else ()
        name = self._sources.get(source) or f"{self._prefix}_{len(self._shapes)}"
        self._names[id(shape)] = name
        # kept, so that no other shape gets its id
        self._shapes.append(shape)
        if isinstance(shape, Leaf):
            if source not in self._sources:
                self._sources[source] = name
                self.rules += leaf_rules(shape, name)
        elif isinstance(shape, Union):
            options = [self.rule(option) for option in shape.options]
            self.rules.append(f"{name}: {' | '.join(dict.fromkeys(options))}")
        elif isinstance(shape, Object):
            self._object(shape, name)
        elif isinstance(shape, Array):
            self._array(shape, name)
        return name

    def _object(self, shape: Object, name: str) -> None:
        members = shape.members
        self.rules.append(f'{name}: "{{" {name}_f0 "}}"')
        for place, member in enumerate(members):
            pair = f"{quoted(schema_text(member.name))} {self._value} {self.rule(member.shape)} {name}_r{place + 1}"
            for state, before in (("f", ""), ("r", f"{self._item} ")):
                # whether a member was written before counts only up to the first that is required
                skip = "" if member.required else f" | {name}_{state}{place + 1}"
                self.rules.append(f"{name}_{state}{place}: {before}{pair}{skip}")
        self._others(shape, name, len(members))

    def _others(self, shape: Object, name: str, place: int) -> None:
        first, after = '""', '""'
        if shape.others is not None and shape.most != 0:
            taken = " | ".join(json.dumps(schema_text(member.name), ensure_ascii=False) for member in shape.members)
            self.rules.append(f"{name.upper()}_KEY: {_KEY}" + (f" & ~({taken})" if taken else ""))
            self.rules.append(f"{name}_other: {name.upper()}_KEY {self._value} {self.rule(shape.others)}")
            after = self._items(f"{name}_other", shape.least, shape.most)
            first = self._first_and_items(f"{name}_other", shape.least, shape.most)
        self.rules.append(f"{name}_f{place}: {first}")
        self.rules.append(f"{name}_r{place}: {after}")

    def _array(self, shape: Array, name: str) -> None:
        self.rules.append(f'{name}: "[" {name}_f0 "]"')
        if shape.choices:
            self._subsets(shape, name)
            return
        count = len(shape.first) if shape.most is None else min(len(shape.first), shape.most)
        for place in range(count):
            item = self.rule(shape.first[place])
            end = ' | ""' if place >= shape.least else ""
            self.rules.append(f"{name}_f{place}: {self._item + ' ' if place else ''}{item} {name}_f{place + 1}{end}")
        if shape.rest is None or shape.most == count:
            self.rules.append(f'{name}_f{count}: ""')
            return
        item = self.rule(shape.rest)
        least, most = max(shape.least - count, 0), None if shape.most is None else shape.most - count
        items = self._items if count else self._first_and_items
        self.rules.append(f"{name}_f{count}: {items(item, least, most)}")

    def _items(self, item: str, least: int, most: int | None) -> str:
        """Items after others; llguidance takes no repetition of at most none."""
        return '""' if most == 0 else f"({self._item} {item}){{{least},{'' if most is None else most}}}"

    def _first_and_items(self, item: str, least: int, most: int | None) -> str:
        """Items, the first of which has nothing before it; at most none is for the caller to see to."""
        more = self._items(item, max(least - 1, 0), None if most is None else most - 1)
        return f"{item} {more}" + ("" if least else ' | ""')

    def _subsets(self, shape: Array, name: str) -> None:
        """Items none of which repeats: a rule for each set of those that are left."""
        every = frozenset(range(len(shape.choices)))
        most = len(every) if shape.most is None else shape.most
        waiting, seen = [every], {every}
        while waiting:
            left = waiting.pop()
            written = len(every) - len(left)
            options = ['""'] if written >= shape.least else []
            for number in sorted(left) if written < most else ():
                rest = left - {number}
                before = f"{self._item} " if written else ""
                options.append(f"{before}{quoted(shape.choices[number])} {self._subset(name, rest, every)}")
                if rest not in seen:
                    seen.add(rest)
                    waiting.append(rest)
            self.rules.append(f"{self._subset(name, left, every)}: {' | '.join(options)}")

    def _subset(self, name: str, left: frozenset[int], every: frozenset[int]) -> str:
        return f"{name}_f0" if left == every else f"{name}_s{'_'.join(map(str, sorted(left))) or 'none'}"


def pieces(text: str) -> Iterator[str]:
    """JSON in the lexemes that documents are made of: of two that begin alike, neither may hide the other."""
    yield from _PIECES.findall(text)


def quoted(text: str) -> str:
    """JSON as Lark's literals."""
    return " ".join(json.dumps(piece, ensure_ascii=False) for piece in pieces(text))
