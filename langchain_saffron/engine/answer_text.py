"""How the text of one answer is told from its tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_saffron.engine.marker_signs import MarkerSigns
from langchain_saffron.engine.said_nodes import SaidNodes
from langchain_saffron.engine.sentence_ends import SentenceEnds, SpokenSentences
from langchain_saffron.engine.spoken_text import SpokenStops
from langchain_saffron.engine.stop_strings import StopChecker
from langchain_saffron.engine.text_stream import AnswerStream, TextStream
from langchain_saffron.engine.thought_stream import ThoughtStream
from langchain_saffron.search.protocol import Sentences
from langchain_saffron.templates.thoughts import Thoughts


@dataclass(frozen=True)
class AnswerText:
    """What reads an answer, for each of those who want to know something of it.

    Attributes:
        tokenizer: The policy's.
        thoughts: How thoughts are marked; `None` takes all of the answer for text.
        context: Tokens before the answer that it continues word by word.
        stop: Strings that end what it says.
        reward_thoughts: Whether the reward models see thoughts.
    """

    tokenizer: Any
    thoughts: Thoughts | None
    context: Sequence[int]
    stop: tuple[str, ...]
    reward_thoughts: bool

    def stops(self) -> Callable[[Sequence[int]], bool]:
        """Whether an answer, given as tokens, has just completed a stop string."""
        if self.thoughts is None:
            return StopChecker(self.tokenizer, self.stop, self.context)
        return SpokenStops(self.tokenizer, self.thoughts, self.stop, self.context)

    def stream(self, markers: Mapping[int, str]) -> AnswerStream:
        """The answer as it becomes final.

        Args:
            markers: Names of control tokens that are given out with the text.
        """
        signs = MarkerSigns(markers)
        if self.thoughts is None:
            return TextStream(self.tokenizer, self.stop, self.context, signs)
        return ThoughtStream(self.tokenizer, self.thoughts, self.stop, self.context, signs)

    def sentences(self) -> Sentences:
        """Where sentences end in what the reward models read."""
        if self.thoughts is None or self.reward_thoughts:
            return SentenceEnds(self.tokenizer, self.context)
        return SpokenSentences(self.tokenizer, self.thoughts, self.context)

    def said_nodes(self) -> SaidNodes | None:
        """The search tree without thoughts, where the reward models are not to see them."""
        return None if self.thoughts is None or self.reward_thoughts else SaidNodes(self.tokenizer, self.thoughts)
