"""The shortest end of an answer under any grammar, in tokens."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar.closing import JsonCloser
from langchain_saffron.grammar.grammar import Grammar
from langchain_saffron.grammar.json_text import value_end
from langchain_saffron.grammar.lark import PYTHON_TAG, lark, shape_of
from langchain_saffron.grammar.leaf_closing import ByteGrammars, character_end
from langchain_saffron.grammar.parts_closing import Closer, PartsCloser

# of a grammar that nothing is known of, a piece may move the end so far
_UNKNOWN_RISE = 64
_OPENING = b'{[,:"'


class TextCloser:
    """The shortest end under a regular expression, or another grammar without control tokens."""

    rise = _UNKNOWN_RISE

    def __init__(self, source: str, grammars: ByteGrammars) -> None:
        """Take Lark."""
        self._source, self._grammars = source, grammars

    def close(self, text: bytes) -> bytes | None:
        """What makes `text` whole."""
        return self._grammars.close(self._source, text)


class CallsCloser:
    """The shortest end of an answer with tool calls."""

    def __init__(self, source: str, grammars: ByteGrammars, cost: Callable[[bytes], int]) -> None:
        """Take the source of a `Grammar.tagged`."""
        self._grammar: dict[str, Any] = json.loads(source)
        self._cost = cost
        self._tags = [
            (tag["begin"].encode(), JsonCloser(shape_of(tag["schema"]), grammars, cost), tag["end"].encode())
            for tag in self._grammar["tags"]
        ]
        self._trigger = self._grammar["trigger"].encode()
        self._separator = self._grammar["separator"].encode()
        document = self._grammar.get("document")
        self._document = document and closer_of(Grammar(**document), {}, grammars, cost)
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
        return self._best(ends)

    def _start(self, text: bytes) -> int | None:
        """Where the first call begins, if one has."""
        if not self._grammar["at_start"]:
            place = text.find(self._trigger)
            return None if place < 0 else place
        bare = text.removeprefix(PYTHON_TAG.encode())
        if self._grammar["text"] and len(bare) == len(text):
            bare = text.lstrip(b" \t\r\n")
        return len(text) - len(bare) if bare.startswith(self._trigger) else None

    def _best(self, ends: Sequence[bytes | None]) -> bytes | None:
        known = [end for end in ends if end is not None]
        return min(known, key=lambda end: (self._cost(end), len(end))) if known else None

    def _calls(self, text: bytes, start: int) -> bytes | None:
        return self._best(list(self._ends(text, start)))

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


def closer_of(
    grammar: Grammar, special: dict[str, int], grammars: ByteGrammars, cost: Callable[[bytes], int]
) -> Closer | None:
    """What finds ends under a grammar; `None` where nothing does.

    Args:
        grammar: The grammar.
        special: The tokenizer's control tokens by their text.
        grammars: Over bytes.
        cost: How long some text is, in tokens.
    """
    if grammar.kind == "json_schema":
        return JsonCloser(shape_of(json.loads(grammar.source)), grammars, cost)
    if grammar.kind == "tagged":
        return CallsCloser(grammar.source, grammars, cost)
    if grammar.kind == "parts":
        document = json.loads(grammar.source).get("document")
        return PartsCloser(
            grammar.source, grammars, cost, document and closer_of(Grammar(**document), special, grammars, cost)
        )
    source = lark(grammar, special)
    return None if grammars.matcher(source).is_error() else TextCloser(source, grammars)


class AnswerCloser:
    """Ends of answers in the tokens of one model. One serves all answers under a grammar, in one thread at a time."""

    def __init__(
        self,
        grammar: Grammar,
        special: dict[str, int],
        library: Any,
        written: Sequence[bytes],
        encode: Callable[[str], list[int]],
        by_bytes: Callable[[bytes], list[int]],
    ) -> None:
        """Nothing is computed before the first end that is wanted.

        Args:
            grammar: The grammar.
            special: The tokenizer's control tokens by their text.
            library: llguidance.
            written: What each token writes, control tokens their names.
            encode: The tokens of some text.
            by_bytes: The same for bytes that are no text.
        """
        self._grammar, self._special, self._library = grammar, special, library
        self.written = written
        self._encode, self._by_bytes = encode, by_bytes
        self._closer: Closer | None = None
        self._known = False
        self._markers = sorted(special, key=len, reverse=True)
        self._tokens = lru_cache(maxsize=8192)(self._tokens_of)
        self._ways = lru_cache(maxsize=1024)(lambda end: (self._marked(end), self._tokens(end)))

    def rise(self, token: int) -> int:
        """How many tokens farther the end may be behind one more token, at most, as far as that is known."""
        closer = self._get()
        if closer is None:
            return 0
        text = self.written[token]
        opened = len(text) - len(text.translate(None, _OPENING))
        return closer.rise * (1 + opened)

    def ends(self, text: bytes) -> list[list[int]]:
        """Ways to make `text` whole that are likely to be the shortest, best first."""
        closer = self._get()
        ends = closer.ends(text) if isinstance(closer, PartsCloser) else [closer.close(text)] if closer else []
        ways = [way for end in ends if end is not None for way in self._ways(end)]
        return [way for place, way in enumerate(ways) if way not in ways[:place]]

    def _get(self) -> Closer | None:
        if not self._known:
            try:
                grammars = ByteGrammars(self._library)
                self._closer = closer_of(self._grammar, self._special, grammars, self._cost)
            except GrammarError:
                self._closer = None
            self._known = True
        return self._closer

    def _cost(self, text: bytes) -> int:
        return len(self._tokens(text))

    def _tokens_of(self, text: bytes) -> list[int]:
        if not text:
            return []
        start = 0
        while start < len(text) and 0x80 <= text[start] < 0xC0:
            start += 1
        try:
            rest = text[start:].decode()
        except UnicodeDecodeError:
            return self._by_bytes(text)
        return [*self._by_bytes(text[:start]), *(self._encode(rest) if rest else [])]

    def _marked(self, text: bytes) -> list[int]:
        """The same with every control token's name as that token."""
        for marker in self._markers:
            before, found, after = text.partition(marker.encode())
            if found:
                return [*self._marked(before), self._special[marker], *self._marked(after)]
        return self._tokens(text)
