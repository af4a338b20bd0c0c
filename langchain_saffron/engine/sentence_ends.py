"""Where the sentences of a response end, told from its tokens."""

import re
from collections.abc import Sequence
from typing import Any

from langchain_saffron.engine.detokenizer import decode
from langchain_saffron.engine.spoken_text import SpokenText
from langchain_saffron.templates.thoughts import Thoughts

# a full stop, or the end of a line, with all that belongs to it
_END = re.compile(r"[.!?…。！？।؟\n][.!?…。！？।؟\n\s\"'”’»)\]*_`]*")
# tokens that are looked at: a token is seldom so much as a sentence
_WINDOW = 8
# the same in characters
_TAIL = 64


class SentenceEnds:
    """Tells whether a response has just come to the end of a sentence; a number's point counts as one, too."""

    def __init__(self, tokenizer: Any, context: Sequence[int] = ()) -> None:
        """Take the tokenizer.

        Args:
            tokenizer: The policy's.
            context: Tokens before the response, as for a `TextStream`.
        """
        self._tokenizer = tokenizer
        self._context = tuple(context)

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the latest token has ended one."""
        window = tuple(tokens[-_WINDOW:])
        led = decode(self._tokenizer, self._context) if len(window) == len(tokens) else ""
        context = self._context if len(window) == len(tokens) else ()
        before, after = (decode(self._tokenizer, [*context, *ids])[len(led) :] for ids in (window[:-1], window))
        return count_ends(after) > count_ends(before)

    def says(self, tokens: Sequence[int], since: int) -> bool:
        """Whether what follows the first `since` tokens is more than white space."""
        return bool(decode(self._tokenizer, tokens[since:]).strip())


class SpokenSentences:
    """The same of what is said between thoughts alone, for reward models that do not see those."""

    def __init__(self, tokenizer: Any, thoughts: Thoughts, context: Sequence[int] = ()) -> None:
        """Take how thoughts are marked; the rest as for `SentenceEnds`."""
        self._spoken = SpokenText(tokenizer, thoughts, context, _TAIL)

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the latest token has ended a sentence."""
        before, new = self._spoken.latest(tokens)
        return bool(new) and count_ends(before + new) > count_ends(before)

    def says(self, tokens: Sequence[int], since: int) -> bool:
        """Whether what follows the first `since` tokens is more than white space and thoughts."""
        return any(self._spoken.latest(tokens[:size])[1].strip() for size in range(since + 1, len(tokens) + 1))


def count_ends(text: str) -> int:
    """How many sentences end in a text; what comes before the first word ends none."""
    return len(_END.findall(text.lstrip()))
