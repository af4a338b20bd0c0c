"""A response taken apart, token by token, into thoughts and what is said."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_saffron.engine.detokenizer import Detokenizer
from langchain_saffron.engine.marker_signs import MarkerSigns
from langchain_saffron.templates.thought_splitter import Piece
from langchain_saffron.templates.thoughts import Thoughts


class ThoughtReader:
    """Reads one response.

    Attributes:
        thought: How many of its tokens belong to thoughts, with their markers.
        said: Its other tokens but those of markers, control tokens included.
    """

    def __init__(
        self, tokenizer: Any, thoughts: Thoughts, context: Sequence[int] = (), markers: MarkerSigns | None = None
    ) -> None:
        """Nothing was read yet.

        Args:
            tokenizer: The policy's.
            thoughts: How thoughts are marked, and whether the prompt has begun one.
            context: Tokens before the response that it continues, as for a `TextStream`.
            markers: Other control tokens, whose signs texts are to hold.
        """
        self.thought = 0
        self.said: list[int] = []
        self._signs = thoughts.markers.signs
        if markers:
            thoughts = _showing(thoughts, markers)
            self._signs = {**markers.of_token, **self._signs}
        self._detokenizer = Detokenizer(tokenizer, context)
        self._splitter = thoughts.splitter()
        # with what each writes, and what was given out of them as text
        self._undecided: list[tuple[int, str]] = []
        self._spoken = ""

    @property
    def thinking(self) -> bool:
        """Whether it stands within a thought, or in what may begin one."""
        return self._splitter.thinking or self._splitter.undecided

    def copy(self) -> "ThoughtReader":
        """The same state, to go on from twice."""
        made: ThoughtReader = object.__new__(ThoughtReader)
        made.thought, made.said, made._signs = self.thought, list(self.said), self._signs
        made._detokenizer, made._splitter = self._detokenizer.copy(), self._splitter.copy()
        made._undecided, made._spoken = list(self._undecided), self._spoken
        return made

    def push(self, token: int) -> list[Piece]:
        """Read a token; return what has become clear."""
        within = self._splitter.thinking
        text = self._detokenizer.push_or_sign(token, self._signs.get(token))
        pieces = self._splitter.feed(text)
        kinds = {kind for kind, _ in pieces}
        self._undecided.append((token, text))
        self._spoken += _said_in(pieces)
        if within or self._splitter.thinking:
            self.thought += self._decide()
        elif not self._splitter.undecided:
            self._decide(said=kinds != {"framing"} and bool(kinds or not text))
        return pieces

    def finish(self) -> list[Piece]:
        """Read the end."""
        within = self._splitter.thinking
        pieces = self._splitter.feed(self._detokenizer.push((), last=True)) + self._splitter.finish()
        self._spoken += _said_in(pieces)
        count = self._decide(said=not within)
        self.thought += count if within else 0
        return pieces

    def _decide(self, said: bool = False) -> int:
        undecided, spoken, self._undecided, self._spoken = self._undecided, self._spoken, [], ""
        if said:
            whole = "".join(text for _, text in undecided)
            # markers of the answer stand before or behind what is said
            first = len(whole) - len(spoken) if whole.endswith(spoken) else 0
            last = first + len(spoken) if whole[first:].startswith(spoken) else len(whole)
            place = 0
            for token, text in undecided:
                if not text or (place + len(text) > first and place < last):
                    self.said.append(token)
                place += len(text)
        return len(undecided)


def _said_in(pieces: Sequence[Piece]) -> str:
    return "".join(text for kind, text in pieces if kind == "text")


def _showing(thoughts: Thoughts, markers: MarkerSigns) -> Thoughts:
    """Thoughts some of whose control tokens, where they mark none, are to be seen."""
    signs = thoughts.markers.signs
    seen = {signs[token]: sign for token, sign in markers.of_token.items() if token in signs}
    return replace(thoughts, markers=replace(thoughts.markers, shown={**thoughts.markers.shown, **seen}))
