"""Texts as llguidance's Lark writes them, control tokens among them."""

import json
import re
from collections.abc import Mapping


class MarkedLiterals:
    """Texts in which a marker may be one token or spelled out, whichever way the model writes it.

    Tokens that are not flagged special are text to llguidance, so both ways are the same; those that are flagged have
    to be named.
    """

    def __init__(self, special: Mapping[str, int]) -> None:
        """Take the tokenizer's control tokens by their text."""
        self._special = special
        names = sorted(special, key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, names))) if names else None

    def first(self, text: str) -> re.Match[str] | None:
        """The first marker in a text."""
        return self._markers.search(text) if self._markers else None

    def write(self, text: str) -> str:
        """A text, where each marker that is a control token may be that token or be spelled out."""
        parts = []
        place = 0
        for match in self._markers.finditer(text) if self._markers else ():
            token = f"<[{self._special[match[0]]}]>"
            parts += [text_literal(text[place : match.start()]), f"({token} | {text_literal(match[0])})"]
            place = match.end()
        parts.append(text_literal(text[place:]))
        return " ".join(part for part in parts if part)


def text_literal(text: str) -> str:
    """A text as one literal of Lark; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""
