"""The texts that the prefixes of an answer stand for, cut where its own tokenizer cuts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class TextPrefixes:
    """The text of every prefix of an answer.

    Attributes:
        texts: Of the prefix that ends with each token. One that ends inside a character, or says nothing yet, has the
            text of the next one that is whole; `None` where none follows.
        completed: How many took the next one's.
        skipped: How many have none.
    """

    texts: tuple[str | None, ...]
    completed: int
    skipped: int

    @classmethod
    def of(cls, tokenizer: Any, ids: Sequence[int]) -> "TextPrefixes":
        """Cut an answer at the borders of its tokens.

        Args:
            tokenizer: The one that the ids are of.
            ids: The answer.
        """
        decoded = [_decode(tokenizer, ids[: end + 1]) for end in range(len(ids))]
        whole = whole_text(tokenizer, ids)
        texts: list[str | None] = []
        following: str | None = None
        completed = 0
        for text in reversed(decoded):
            if text and whole.startswith(text):
                following = text
            elif following is not None:
                completed += 1
            texts.append(following)
        return cls(tuple(reversed(texts)), completed, texts.count(None))


def whole_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer, without the half of a character that one that was cut off may end with."""
    return _decode(tokenizer, ids).rstrip(REPLACEMENT)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str | None:
    """The text of ids; `None` where they end inside a character."""
    text = _decode(tokenizer, ids)
    return None if text.endswith(REPLACEMENT) else text


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
