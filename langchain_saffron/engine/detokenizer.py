"""From tokens to text, in whole characters only."""

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"


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


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of `ids`, control tokens left out, spaces as they are."""
    if not ids:
        return ""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
