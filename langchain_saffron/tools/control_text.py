"""Control tokens, which the texts of answers leave out."""

import re
from collections.abc import Iterable
from typing import Any


def control_tokens(tokenizer: Any, literals: Iterable[str]) -> dict[int, str]:
    """The tokens that texts leave out and that some literals hold, with their names.

    Args:
        tokenizer: The policy's; `None` has none.
        literals: The texts of a form of calls.
    """
    added = tokenizer.added_tokens_decoder if tokenizer is not None else {}
    whole = "\0".join(literals)
    return {i: token.content for i, token in added.items() if token.special and token.content in whole}


class ControlText:
    """An answer's text with control tokens, brought together with the one without, which is given out.

    Attributes:
        specials: The control strings that texts leave out.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Takes the control strings of a tokenizer."""
        added = tokenizer.added_tokens_decoder.values() if tokenizer is not None else ()
        self.specials = frozenset(token.content for token in added if token.special)
        longest_first = sorted(self.specials, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def as_given(self, token_text: str, text: str) -> str:
        """`token_text` up to where `text` ends, which is that without control tokens, cut before a stop string."""
        pieces = self._pattern.split(token_text)
        visible = "".join(pieces[::2])
        if visible == text or not visible.startswith(text):
            return token_text
        kept, room = [], len(text)
        for index, piece in enumerate(pieces):
            kept.append(piece if index % 2 else piece[:room])
            room -= 0 if index % 2 else len(piece)
            if room <= 0:
                break
        return "".join(kept)
