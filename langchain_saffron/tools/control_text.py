"""Answers whose calls are marked by control tokens, which their text leaves out."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from langchain_saffron.tools.base import CallParser, Event


class ControlText:
    """An answer's text with control tokens, brought together with the one without, which is given out.

    Attributes:
        specials: The control strings that texts leave out.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Takes the control strings of a tokenizer."""
        added = tokenizer.added_tokens_decoder.values() if tokenizer is not None else ()
        self.specials = frozenset(token.content for token in added if token.special)
        longest_first = sorted(self.specials, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def as_given(self, token_text: str, text: str) -> str:
        """`token_text` up to where `text` ends, which is that without control tokens, cut before a stop string."""
        pieces = self._pattern.split(token_text)
        visible = "".join(pieces[::2])
        if visible == text or not visible.startswith(text):
            return token_text
        kept, room = [], len(text)
        for index, piece in enumerate(pieces):
            kept.append(piece if index % 2 else piece[:room])
            room -= 0 if index % 2 else len(piece)
            if room <= 0:
                break
        return "".join(kept)

    def only(self, token_text: str, kept: Collection[str]) -> str:
        """`token_text` without all control strings but `kept`."""
        return self._pattern.sub(lambda match: match[0] if match[0] in kept else "", token_text)


class ControlTextParser(CallParser):
    """Lets another parser read the markers that are control tokens, once the answer is whole."""

    def __init__(self, parser: CallParser, controls: ControlText, markers: Collection[str]) -> None:
        """Puts itself before a parser.

        Args:
            parser: What takes the text apart.
            controls: Those of the tokenizer.
            markers: The control strings that it wants to see.
        """
        self._parser = parser
        self._controls = controls
        self._markers = markers
        self._text = ""

    def feed(self, text: str) -> Iterator[Event]:
        """Read on; gives nothing yet."""
        self._text += text
        yield from ()

    def finish(self, cut: str | None = None, token_text: str = "") -> Iterator[Event]:
        """Read everything."""
        text = self._text
        if token_text:
            text = self._controls.only(self._controls.as_given(token_text, text), self._markers)
        yield from self._parser.feed(text)
        yield from self._parser.finish(cut)
