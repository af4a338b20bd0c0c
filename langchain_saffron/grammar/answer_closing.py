"""The shortest end of an answer under any grammar, in tokens."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar.calls_closing import CallsCloser
from langchain_saffron.grammar.closer import Closer
from langchain_saffron.grammar.closing import JsonCloser
from langchain_saffron.grammar.grammar import Grammar
from langchain_saffron.grammar.lark import lark, shape_of
from langchain_saffron.grammar.leaf_closing import ByteGrammars
from langchain_saffron.grammar.parts_closing import PartsCloser

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
    if grammar.kind in ("tagged", "parts"):
        document = json.loads(grammar.source).get("document")
        instead = closer_of(Grammar(**document), special, grammars, cost) if document else None
        return (CallsCloser if grammar.kind == "tagged" else PartsCloser)(grammar.source, grammars, cost, instead)
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

    def begins_call(self, text: bytes) -> bool:
        """Whether `text` may be the beginning of what a call begins with, and is no more yet."""
        closer = self._get()
        openings = closer.openings if isinstance(closer, CallsCloser | PartsCloser) else ()
        return any(opening.startswith(text) for opening in openings)

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
