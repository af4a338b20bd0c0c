"""The shortest end of an answer with tool calls between markers."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from langchain_saffron.grammar.closer import Closer, shortest
from langchain_saffron.grammar.closing import JsonCloser
from langchain_saffron.grammar.json_text import value_end
from langchain_saffron.grammar.lark import PYTHON_TAG, shape_of
from langchain_saffron.grammar.leaf_closing import ByteGrammars, character_end


class CallsCloser:
    """The shortest end of an answer with tool calls.

    Attributes:
        openings: What calls begin with.
    """

    def __init__(
        self, source: str, grammars: ByteGrammars, cost: Callable[[bytes], int], document: Closer | None
    ) -> None:
        """Take a grammar.

        Args:
            source: Of a `Grammar.tagged`.
            grammars: Over bytes.
            cost: How long some text is, in tokens.
            document: Finds ends of the document that may stand in place of calls.
        """
        self._grammar: dict[str, Any] = json.loads(source)
        self._cost = cost
        self._tags = [
            (tag["begin"].encode(), JsonCloser(shape_of(tag["schema"]), grammars, cost), tag["end"].encode())
            for tag in self._grammar["tags"]
        ]
        self._trigger = self._grammar["trigger"].encode()
        self.openings = frozenset(tag["begin"].encode() for tag in self._grammar["tags"])
        self._separator = self._grammar["separator"].encode()
        self._document = document
        self.rise = max(closer.rise + cost(begin + end) for begin, closer, end in self._tags)
        if self._document:
            self.rise = max(self.rise, self._document.rise)

    def close(self, text: bytes) -> bytes | None:
        """What makes `text` whole."""
        ends = [self._document.close(text)] if self._document else []
        start = self._start(text)
        if start is None:
            ends.append(character_end(text) if self._grammar["text"] else self._calls(text, 0))
        else:
            ends.append(self._calls(text, start))
        return shortest(ends, self._cost)

    def _start(self, text: bytes) -> int | None:
        """Where the first call begins, if one has."""
        if not self._grammar["at_start"]:
            place = text.find(self._trigger)
            return None if place < 0 else place
        bare = text.removeprefix(PYTHON_TAG.encode())
        if self._grammar["text"] and len(bare) == len(text):
            bare = text.lstrip(b" \t\r\n")
        return len(text) - len(bare) if bare.startswith(self._trigger) else None

    def _calls(self, text: bytes, start: int) -> bytes | None:
        return shortest(self._ends(text, start), self._cost)

    def _ends(self, text: bytes, start: int) -> Iterator[bytes | None]:
        rest = text[start:]
        for begin, closer, end in self._tags:
            if begin.startswith(rest):
                whole = closer.shortest
                yield None if whole is None else begin[len(rest) :] + whole + end
            elif rest.startswith(begin):
                yield self._behind(text, start + len(begin), closer, end)

    def _behind(self, text: bytes, start: int, closer: JsonCloser, end: bytes) -> bytes | None:
        """The end where a call's arguments have begun."""
        place = value_end(text, start)
        if place is None or place == len(text):
            missing = closer.close(text, start)
            return None if missing is None else missing + end
        if not closer.matches(text[start:place]):
            return None
        after = text[place:]
        if end.startswith(after):
            return end[len(after) :]
        if not after.startswith(end):
            return None
        place += len(end)
        after = text[place:]
        if not after:
            return b""
        if not self._grammar["many"]:
            return None
        if self._separator.startswith(after):
            another = self._calls(b"", 0)
            return None if another is None else self._separator[len(after) :] + another
        return self._calls(text, place + len(self._separator)) if after.startswith(self._separator) else None
