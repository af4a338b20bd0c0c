"""Control tokens within growing texts."""

import re
from collections.abc import Mapping

from langchain_saffron.engine.result import MarkerText

# those of thoughts come before
_FIRST_SIGN, _LAST_SIGN = 0xDC00, 0xDFFF


class MarkerSigns:
    """Control tokens as signs that no text can hold, so that they keep their places while text is held back."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """Take the names of tokens."""
        self.of_token = {token: chr(_FIRST_SIGN + place) for place, token in enumerate(names)}
        self._names = {self.of_token[token]: MarkerText(name) for token, name in names.items()}
        self._pattern = re.compile("([" + "".join(self._names) + "])" if names else "(?!)")

    def __bool__(self) -> bool:
        return bool(self._names)

    def taken_apart(self, text: str) -> list[str]:
        """Text and control tokens, each a piece."""
        if not self._names:
            return [text] if text else []
        return [self._names.get(piece, piece) for piece in self._pattern.split(text) if piece]


def is_sign(character: str) -> bool:
    """Whether a character stands for a control token."""
    return _FIRST_SIGN <= ord(character) <= _LAST_SIGN
