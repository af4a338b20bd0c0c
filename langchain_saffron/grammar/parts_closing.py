"""The shortest end of an answer that is put together of texts, JSON and regular expressions."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain_saffron.grammar.closer import Closer
from langchain_saffron.grammar.closing import JsonCloser
from langchain_saffron.grammar.json_text import value_end
from langchain_saffron.grammar.lark import shape_of
from langchain_saffron.grammar.leaf_closing import ByteGrammars, character_end

Item = list[Any]
# where something that begins at a place may end, and what may be missing of it where the text is over before it is
Read = tuple[frozenset[int], tuple[bytes, ...]]

_ANY = "/(?s:.*)/"
_NOWHERE: frozenset[int] = frozenset()
# how many ends are kept: lexemes are as long as can be, so that the shortest may be none
_KEPT = 4


class PartsCloser:
    """Reads an answer by all rules at once, as far as it goes.

    Attributes:
        openings: What calls begin with.
    """

    def __init__(
        self, source: str, grammars: ByteGrammars, cost: Callable[[bytes], int], document: Closer | None = None
    ) -> None:
        """Take a grammar; see `PartsLark` for its items.

        Args:
            source: Of a `Grammar.parts`.
            grammars: Over bytes.
            cost: How long some text is, in tokens.
            document: Finds ends of the document that may stand in place of calls.
        """
        rules: dict[str, list[list[Item]]] = json.loads(source)["rules"]
        self._rules = {name: [[*items] for items in alternatives] for name, alternatives in rules.items()}
        every = [item for alternatives in rules.values() for items in alternatives for item in items]
        self.openings = frozenset(item[1].encode() for item in every if item[0] == "head")
        self._grammars, self._cost, self._document = grammars, cost, document
        if document is not None:
            self._rules["start"].append([["document"]])
        self._json: dict[str, JsonCloser] = {}
        self._whole: dict[str, bytes] = {}
        self._text = b""
        self._known: dict[tuple[str, int], Read] = {}
        self._find_shortest()
        choices = [self._shortest(items) or b"" for some in self._rules.values() for items in some]
        inner = [one.rise for one in (*self._json.values(), *([document] if document else []))]
        # one piece may choose a field and, with it, one of its values
        self.rise = 2 * max(map(cost, choices), default=0) + max(inner, default=0) + 8

    def close(self, text: bytes) -> bytes | None:
        """What makes `text` whole."""
        return next(iter(self.ends(text)), None)

    def ends(self, text: bytes) -> tuple[bytes, ...]:
        """What may make `text` whole, shortest first."""
        self._text, self._known = text, {}
        try:
            ends, missing = self._rule("start", 0)
        except RecursionError:  # more fields than can be looked at
            return ()
        return self._best((b"", *missing)) if len(text) in ends else missing

    # The shortest text of each item.

    def _find_shortest(self) -> None:
        changed = True
        while changed:
            changed = False
            for name, alternatives in self._rules.items():
                text = next(iter(self._best(self._shortest(items) for items in alternatives)), None)
                if text is not None and (name not in self._whole or self._rank(text) < self._rank(self._whole[name])):
                    self._whole[name] = text
                    changed = True

    def _shortest(self, items: Sequence[Item]) -> bytes | None:
        """The shortest text of items; `None` where none is known."""
        text = b""
        for item in items:
            one = self._shortest_of(item)
            if one is None:
                return None
            text += one
        return text

    def _shortest_of(self, item: Item) -> bytes | None:
        kind, *values = item
        if kind in ("text", "head"):
            return str(values[0]).encode()
        if kind == "rule":
            return self._whole.get(values[0])
        if kind == "repeat":
            one = self._whole.get(values[0], b"")
            return one * values[1] if one or not values[1] else None
        if kind == "json":
            return self._json_closer(item).shortest
        if kind == "lark":
            return self._grammars.close(_terminal(values[0]), b"")
        if kind == "until":
            inner = self._grammars.close(_terminal(values[1]), b"")
            return None if inner is None else inner + values[0].encode()
        return self._document.close(b"") if kind == "document" and self._document else b""

    def _json_closer(self, item: Item) -> JsonCloser:
        key = json.dumps(item)
        if key not in self._json:
            _, schema, between, behind, *_ = item
            self._json[key] = JsonCloser(shape_of(schema), self._grammars, self._cost, between, behind)
        return self._json[key]

    def _rank(self, text: bytes) -> tuple[int, int]:
        return self._cost(text), len(text)

    def _best(self, found: Iterable[bytes | None]) -> tuple[bytes, ...]:
        known = {text for text in found if text is not None}
        return tuple(sorted(known, key=self._rank)[:_KEPT]) if len(known) > 1 else tuple(known)

    # What has been written.

    def _rule(self, name: str, place: int) -> Read:
        known = self._known.get((name, place))
        if known is None:
            read = [self._sequence(items, place) for items in self._rules[name]]
            ends = frozenset().union(*(ends for ends, _ in read))
            known = self._known[name, place] = ends, self._best(one for _, missing in read for one in missing)
        return known

    def _sequence(self, items: Sequence[Item], place: int) -> Read:
        places, found = frozenset((place,)), list[bytes | None]()
        for number, item in enumerate(items):
            following: set[int] = set()
            for start in places:
                ends, missing = self._item(item, start)
                following |= ends
                if missing and (rest := self._shortest(items[number + 1 :])) is not None:
                    found += [one + rest for one in missing]
            places = frozenset(following)
            if not places:
                break
        return places, self._best(found)

    def _item(self, item: Item, place: int) -> Read:
        kind, *values = item
        if place == len(self._text):
            whole = self._shortest_of(item)
            return self._closed(whole)
        if kind == "text":
            return self._literal(values[0].encode(), place)
        if kind == "rule":
            return self._rule(values[0], place)
        if kind == "repeat":
            return self._repeated(place, *values)
        if kind == "json":
            return self._value(self._json_closer(item), place)
        if kind == "lark":
            return self._lexeme(_terminal(values[0]), place)
        if kind == "until":
            return self._until(values[0].encode(), values[1], place)
        if kind == "document":
            return self._closed(self._document.close(self._text[place:]) if self._document else None)
        return self._prose(values[0].encode(), place, head=kind == "head")

    def _closed(self, missing: bytes | None) -> Read:
        """What goes on to the end of the text, which it may be whole by."""
        return frozenset((len(self._text),)) if missing == b"" else _NOWHERE, self._best((missing,))

    def _literal(self, literal: bytes, place: int) -> Read:
        rest = self._text[place:]
        if rest.startswith(literal):
            return frozenset((place + len(literal),)), ()
        return _NOWHERE, (literal[len(rest) :],) if literal.startswith(rest) else ()

    def _repeated(self, place: int, name: str, least: int, most: int | None) -> Read:
        item: Item = ["rule", name]
        places, all_ends, found, count = frozenset((place,)), set[int](), list[bytes | None](), 0
        while places and (most is None or count <= most):
            if count >= least:
                all_ends |= places
            following: set[int] = set()
            for start in places:
                if start == len(self._text):
                    found.append(self._shortest_of(["repeat", name, max(least - count, 0), None]))
                elif most is None or count < most:
                    ends, missing = self._item(item, start)
                    following |= ends
                    rest = self._shortest_of(["repeat", name, max(least - count - 1, 0), None])
                    found += [one + rest for one in missing if rest is not None]
            places, count = frozenset(following - all_ends), count + 1
        return frozenset(all_ends), self._best(found)

    def _value(self, closer: JsonCloser, place: int) -> Read:
        """A value of JSON. A number at the end may go on."""
        end = value_end(self._text, place)
        if end is None or end == len(self._text):
            return self._closed(closer.close(self._text, place))
        return (frozenset((end,)) if closer.matches(self._text[place:end]) else _NOWHERE), ()

    def _lexeme(self, source: str, place: int) -> Read:
        matcher = self._grammars.matcher(source)
        ends = {place} if matcher.is_accepting() else set()
        for end in range(place, len(self._text)):
            if matcher.is_stopped() or matcher.try_consume_tokens([self._text[end]]) != 1:
                return frozenset(ends), ()
            if matcher.is_accepting():
                ends.add(end + 1)
        return frozenset(ends), self._best((self._grammars.close(source, self._text[place:]),))

    def _until(self, end: bytes, pattern: str, place: int) -> Read:
        source = _terminal(pattern)
        found = self._text.find(end, place)
        if found >= 0:
            fits = pattern == _ANY or self._grammars.accepts(source, self._text[place:found])
            return (frozenset((found + len(end),)) if fits else _NOWHERE), ()
        ways: list[bytes | None] = []
        for begun in range(min(len(end) - 1, len(self._text) - place) + 1):
            inner = self._text[place : len(self._text) - begun]
            if not self._text.endswith(end[:begun]):
                continue
            if not begun:
                missing = character_end(inner) if pattern == _ANY else self._grammars.close(source, inner)
                ways.append(None if missing is None else missing + end)
            elif pattern == _ANY or self._grammars.accepts(source, inner):
                ways.append(end[begun:])
        return _NOWHERE, self._best(ways)

    def _prose(self, trigger: bytes, place: int, head: bool) -> Read:
        found = self._text.find(trigger, place)
        if found >= 0:
            return (frozenset((found + len(trigger),)) if head else _NOWHERE), ()
        # of what is no call, prose that goes on without one is the shorter
        return (_NOWHERE, ()) if head else self._closed(character_end(self._text[place:]))


def _terminal(lark: str) -> str:
    """A terminal as a grammar of its own."""
    return f"start: TERMINAL\nTERMINAL: {lark}\n"
