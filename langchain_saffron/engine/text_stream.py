"""From final tokens to final text: whole characters only, nothing past a stop string."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from langchain_saffron.engine.detokenizer import Detokenizer
from langchain_saffron.engine.marker_signs import MarkerSigns
from langchain_saffron.engine.result import MarkerText, ThoughtText
from langchain_saffron.engine.stop_strings import StopFilter


class AnswerStream(ABC):
    """A growing response, given out as it becomes final.

    What is given out, joined, is the response: half a character waits for its other half, what could begin a stop
    string waits until it is known not to, and nothing follows a stop string.

    Attributes:
        text: All text given out so far.
        parts: The same with what is not text in it, in order; empty where there is none to be seen.
    """

    def __init__(self, stop: Sequence[str], markers: MarkerSigns | None, in_parts: bool) -> None:
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
        markers: MarkerSigns | None = None,
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
