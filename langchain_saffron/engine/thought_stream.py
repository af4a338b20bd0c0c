"""The text of an answer that thinks, given out as it becomes final."""

from collections.abc import Sequence
from typing import Any

from langchain_saffron.engine.marker_signs import MarkerSigns
from langchain_saffron.engine.result import MarkerText, ThoughtText
from langchain_saffron.engine.text_stream import AnswerStream
from langchain_saffron.engine.thought_reader import ThoughtReader
from langchain_saffron.templates.thought_splitter import Piece
from langchain_saffron.templates.thoughts import Thoughts


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
