"""Responses taken apart, token by token, into thoughts and what is said."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_saffron.engine.detokenizer import Detokenizer
from langchain_saffron.engine.marker_signs import MarkerSigns
from langchain_saffron.engine.result import MarkerText, ThoughtText
from langchain_saffron.engine.text_stream import AnswerStream
from langchain_saffron.templates.thought_splitter import Piece
from langchain_saffron.templates.thoughts import Thoughts

# responses whose state is remembered: beams grow from those of the step before
_REMEMBERED = 512


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


class ThoughtStream(AnswerStream):
    """The text of a growing response, and its thoughts beside it; in `parts`, neighbours of one kind are joined."""

    def __init__(
        self,
        tokenizer: Any,
        thoughts: Thoughts,
        stop: Sequence[str] = (),
        context: Sequence[int] = (),
        markers: MarkerSigns | None = None,
    ) -> None:
        """Start a stream.

        Args:
            tokenizer: The policy's.
            thoughts: How thoughts are marked.
            stop: Strings that end the text. In thoughts they end nothing.
            context: As for a `TextStream`.
            markers: Control tokens that are given out, too.
        """
        super().__init__(stop, markers, in_parts=True)
        self.reader = ThoughtReader(tokenizer, thoughts, context, markers)
        # where one thought follows another
        self._new_thought = True

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Add final tokens; return what became final, thoughts as `ThoughtText`, control tokens as `MarkerText`."""
        return [] if self.stopped else [one for token in tokens for one in self._given(self.reader.push(token))]

    def last_pieces(self) -> list[str]:
        """Return the rest."""
        if self.stopped:
            return []
        given = self._given(self.reader.finish())
        return [*given, *self._say(self._filter.release("", last=True))]

    def _given(self, pieces: list[Piece]) -> list[str]:
        given: list[str] = []
        for kind, text in pieces:
            if self.stopped:
                break
            if kind == "opened":
                # what could have begun a stop string has not
                given += self._say(self._filter.release("", last=True))
                self._new_thought = True
            elif kind == "thought":
                given.append(self._think(text))
            elif kind == "text":
                given += self._say(self._filter.release(text))
        return [one for one in given if one]

    def _think(self, text: str) -> ThoughtText:
        text = "".join(one for one in self._markers.taken_apart(text) if not isinstance(one, MarkerText))
        if self._new_thought or not self.parts or not isinstance(self.parts[-1], ThoughtText):
            thought = ThoughtText(text, begins=True)
            self.parts.append(thought)
        else:
            thought = ThoughtText(text)
            self.parts[-1] = ThoughtText(self.parts[-1] + text, begins=True)
        self._new_thought = False
        return thought


class SpokenText:
    """What responses, given as tokens, say between their thoughts."""

    def __init__(self, tokenizer: Any, thoughts: Thoughts, context: Sequence[int], tail: int) -> None:
        """Take how thoughts are marked.

        Args:
            tokenizer: The policy's.
            thoughts: How thoughts are marked.
            context: As for a `TextStream`.
            tail: How many characters of what was said before are wanted.
        """
        self._start = ThoughtReader(tokenizer, thoughts, context)
        self._tail = tail
        self._states: OrderedDict[tuple[int, ...], tuple[ThoughtReader, str, str]] = OrderedDict()

    def latest(self, tokens: Sequence[int]) -> tuple[str, str]:
        """The end of what was said before, and what the latest token, with those not asked about, adds to it."""
        key = tuple(tokens)
        known = len(key) - 1
        while known > 0 and key[:known] not in self._states:
            known -= 1
        reader, said, latest = self._states[key[:known]] if known > 0 else (self._start, "", "")
        said = (said + latest)[-self._tail :] if self._tail else ""
        reader = reader.copy()
        reader.said = []
        latest = "".join(text for token in key[max(known, 0) :] for kind, text in reader.push(token) if kind == "text")
        self._states[key] = reader, said, latest
        while len(self._states) > _REMEMBERED:
            self._states.popitem(last=False)
        return said, latest


class SpokenStops:
    """Tells whether a response, given as tokens, has just completed a stop string in what it says."""

    def __init__(self, tokenizer: Any, thoughts: Thoughts, stop: Sequence[str], context: Sequence[int] = ()) -> None:
        self._stop = tuple(stop)
        self._spoken = SpokenText(tokenizer, thoughts, context, max((len(one) for one in stop), default=0))

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the latest token has completed one."""
        if not self._stop:
            return False
        said, latest = self._spoken.latest(tokens)
        return any(one in said + latest for one in self._stop)
