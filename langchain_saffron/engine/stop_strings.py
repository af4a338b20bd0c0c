"""Strings that end an answer, looked for in growing texts and in tokens."""

from collections.abc import Sequence
from typing import Any

from langchain_saffron.engine.detokenizer import decode
from langchain_saffron.engine.marker_signs import is_sign
from langchain_saffron.templates.overlap import overlap


class StopFilter:
    """Lets a growing text through up to the first stop string.

    Attributes:
        stopped: Whether one was found.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._waiting = ""

    def release(self, new: str, last: bool = False) -> str:
        """Add text; return what is known to stand before any stop string."""
        if self.stopped:
            return ""
        text = self._waiting + new
        # a stop string may have a control token in its middle
        shown = [place for place, character in enumerate(text) if not is_sign(character)]
        plain = "".join(text[place] for place in shown)
        places = [place for stop in self._stop if (place := plain.find(stop)) >= 0]
        if places:
            self.stopped = True
            text, self._waiting = text[: shown[min(places)]], ""
        else:
            held = 0 if last else overlap(plain, self._stop)
            end = shown[-held] if held else len(text)
            text, self._waiting = text[:end], text[end:]
        return text


class StopChecker:
    """Tells whether a response, given as tokens, has just completed a stop string."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._context = tuple(context)
        # a token is at least one byte: this many always hold the longest stop string and what it touches
        self._tail = max((len(s.encode("utf-8", "surrogatepass")) for s in stop), default=0) + 8

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the text of `tokens` contains a stop string near its end."""
        if not self._stop:
            return False
        if len(tokens) > self._tail:
            text = decode(self._tokenizer, tokens[-self._tail :])
        else:
            before = decode(self._tokenizer, self._context)
            text = decode(self._tokenizer, [*self._context, *tokens])[len(before) :]
        return any(stop in text for stop in self._stop)
