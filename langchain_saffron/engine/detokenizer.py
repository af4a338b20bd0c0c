"""From final tokens to final text: whole characters only, nothing past a stop string."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_saffron.engine.result import MarkerText, ThoughtText
from langchain_saffron.templates.overlap import overlap

BROKEN = "\ufffd"
# those of thoughts come before
_FIRST_SIGN, _LAST_SIGN = 0xDC00, 0xDFFF


class Detokenizer:
    """The text of a growing response, in whole characters."""

    def __init__(self, tokenizer: Any, context: Sequence[int] = ()) -> None:
        """Start a text.

        Args:
            tokenizer: The policy's.
            context: Tokens before the response, as for a `TextStream`.
        """
        self._tokenizer = tokenizer
        self._ids = list(context)
        self._read = len(self._ids)

    def copy(self) -> "Detokenizer":
        """The same state, to go on from twice."""
        made = Detokenizer(self._tokenizer, self._ids)
        made._read = self._read
        return made

    def push(self, tokens: Sequence[int], last: bool = False) -> str:
        """Add tokens; return the new text.

        Args:
            tokens: The next ones.
            last: Whether half a character waits no longer for its other half.
        """
        self._ids.extend(tokens)
        # decoding from a little before the new tokens keeps spaces and joiners right, at constant cost
        before = decode(self._tokenizer, self._ids[: self._read])
        after = decode(self._tokenizer, self._ids)
        if len(after) <= len(before) or (after.endswith(BROKEN) and not last):
            return ""
        del self._ids[: self._read]
        self._read = len(self._ids)
        return after[len(before) :]

    def push_or_sign(self, token: int, sign: str | None) -> str:
        """Add a token; return the text that became final, or a control token's sign behind all that waited for it."""
        return self.push((token,)) if sign is None else self.push((), last=True) + sign


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
        shown = [place for place, character in enumerate(text) if not _is_sign(character)]
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


class AnswerStream(ABC):
    """A growing response, given out as it becomes final.

    What is given out, joined, is the response: half a character waits for its other half, what could begin a stop
    string waits until it is known not to, and nothing follows a stop string.

    Attributes:
        text: All text given out so far.
        parts: The same with what is not text in it, in order; empty where there is none to be seen.
    """

    def __init__(self, stop: Sequence[str], markers: "MarkerSigns | None", in_parts: bool) -> None:
        """Nothing was given out yet.

        Args:
            stop: Strings that end the text.
            markers: Control tokens that are given out, too.
            in_parts: Whether anything but text is given out.
        """
        self.text = ""
        self.parts: list[str] = []
        self._markers = markers or MarkerSigns({})
        self._filter = StopFilter(stop)
        self._in_parts = in_parts

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._filter.stopped

    @abstractmethod
    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Add final tokens; return what became final, control tokens as `MarkerText`."""

    @abstractmethod
    def last_pieces(self) -> list[str]:
        """Return the rest."""

    def add(self, text: str) -> str:
        """Append text that no token stands for, such as a refusal."""
        self.text += text
        if self._in_parts:
            if self.parts and not isinstance(self.parts[-1], ThoughtText | MarkerText):
                self.parts[-1] += text
            elif text:
                self.parts.append(text)
        return text

    def _say(self, text: str) -> list[str]:
        pieces = self._markers.taken_apart(text)
        for piece in pieces:
            if isinstance(piece, MarkerText):
                self.parts.append(piece)
            else:
                self.add(piece)
        return pieces


class TextStream(AnswerStream):
    """Detokenises a growing response that is all text, but for control tokens that are to be seen."""

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[str] = (),
        context: Sequence[int] = (),
        markers: "MarkerSigns | None" = None,
    ) -> None:
        """Start a stream.

        Args:
            tokenizer: The policy's.
            stop: Strings that end the text.
            context: Tokens before the response that it continues word by word (a prefill, a plain prompt):
                they decide about a leading space.
            markers: Control tokens that are given out, too.
        """
        super().__init__(stop, markers, in_parts=bool(markers))
        self._detokenizer = Detokenizer(tokenizer, context)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Add final tokens; return what became final: text in one piece, and control tokens as `MarkerText`."""
        signs = self._markers.of_token
        text = "".join(self._detokenizer.push_or_sign(token, signs.get(token)) for token in tokens)
        return self._say(self._filter.release(text))

    def last_pieces(self) -> list[str]:
        """Return the rest."""
        return self._say(self._filter.release(self._detokenizer.push((), last=True), last=True))


class MarkerSigns:
    """Control tokens as signs that no text can hold, so that they keep their places while text is held back."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """Take the names of tokens."""
        self.of_token = {token: chr(_FIRST_SIGN + place) for place, token in enumerate(names)}
        self._names = {self.of_token[token]: MarkerText(name) for token, name in names.items()}
        self._pattern = re.compile("([" + "".join(self._names) + "])" if names else "(?!)")

    def __bool__(self) -> bool:
        return bool(self._names)

    def taken_apart(self, text: str) -> list[str]:
        """Text and control tokens, each a piece."""
        if not self._names:
            return [text] if text else []
        return [self._names.get(piece, piece) for piece in self._pattern.split(text) if piece]


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


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of `ids`, control tokens left out, spaces as they are."""
    if not ids:
        return ""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _is_sign(character: str) -> bool:
    return _FIRST_SIGN <= ord(character) <= _LAST_SIGN
