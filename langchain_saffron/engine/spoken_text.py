"""What answers that think say, told from their tokens alone."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from langchain_saffron.engine.thought_reader import ThoughtReader
from langchain_saffron.templates.thoughts import Thoughts

# responses whose state is remembered: beams grow from those of the step before
_REMEMBERED = 512


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
