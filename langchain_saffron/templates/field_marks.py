"""Marks around the characters of messages, by which a template's own control strings are told from theirs."""

import re

from langchain_saffron.errors import PromptError
from langchain_saffron.templates.safe_encoder import SafeEncoder

_PRIVATE = re.compile("[\U000f0000-\U0010fffd]")
# the same characters as JSON in ASCII and Python's `repr` write them
_ESCAPED = re.compile(r"\\(?:U(00(?:0f|10)[0-9a-f]{4})|u(d[b][89a-f][0-9a-f])\\u(d[c-f][0-9a-f]{2}))")
_FIRST, _LAST = 0xF0000, 0x10FFFD


class FieldMarks:
    """The marks of one rendering, and what is done to strings with them."""

    def __init__(self, strings: str, fields: int, encoder: SafeEncoder) -> None:
        """Choose marks.

        Args:
            strings: All that the messages say, and the template's own text.
            fields: How many texts are marked, each with a label of its own.
            encoder: Knows the control strings.

        Raises:
            PromptError: There are no characters left for marks.
        """
        singles = [single for single in encoder.single_characters if single in strings]
        size = fields + len(singles) + 1
        taken = {ord(c) for c in _PRIVATE.findall(strings)} | {ord(_unescaped(m)) for m in _ESCAPED.finditer(strings)}
        base = next((b for b in range(_FIRST, _LAST - size, size) if taken.isdisjoint(range(b, b + size))), None)
        if base is None:
            raise PromptError("the messages use up all of Unicode's private characters")
        self._encoder = encoder
        self._own = range(base, base + size)
        self._mark = chr(base)
        self._labels = [chr(base + 1 + index) for index in range(fields)]
        self._any = re.compile(f"[{chr(base)}-{chr(base + size - 1)}]")
        self._label_pattern = re.compile(f"[{chr(base + 1)}-{chr(base + fields)}]" if fields else "(?!)")
        # A control string of one character cannot be taken apart: something else stands for it meanwhile.
        self._hide = {ord(s): chr(base + 1 + fields + index) for index, s in enumerate(singles)}
        self._show = {ord(v): chr(k) for k, v in self._hide.items()}
        # Templates may trim blanks, so these stay outermost, unless they could be part of a control string.
        self._trimmable = not encoder.has_blanks

    def spread(self, text: str, field: int) -> str:
        """`text` with marks around each character, labelled as the field it comes from."""
        core = text.strip() if self._trimmable else text
        if not core:
            return text
        lead, _, trail = text.partition(core)
        core = core.translate(self._hide) if self._hide else core
        return f"{lead}{self._labels[field]}{self._mark}{self._mark.join(core)}{self._mark}{trail}"

    def broken(self, text: str, field: int) -> str:
        """`text` with marks only where they are needed, inside control strings."""
        return self._encoder.break_controls(text.translate(self._hide), self._mark)

    def restored(self, rendered: str) -> str:
        """`rendered` with the marks that a template has escaped, as `tojson` in ASCII and `string` do."""

        def restore(match: re.Match[str]) -> str:
            character = _unescaped(match)
            return character if ord(character) in self._own else match[0]

        return _ESCAPED.sub(restore, rendered) if "\\" in rendered else rendered

    def has(self, rendered: str, field: int) -> bool:
        """Whether a field is there."""
        return self._labels[field] in rendered

    def remove(self, rendered: str) -> str:
        """`rendered` without marks, and with what they stood for."""
        text = self._label_pattern.sub("", rendered.replace(self._mark, ""))
        return text.translate(self._show) if self._show else text

    def tail(self, rendered: str) -> str:
        """What stands behind the last mark."""
        return self._any.split(rendered)[-1]

    def start(self, rendered: str, field: int) -> int | None:
        """Where a field begins once the marks are removed; `None` where it is not there."""
        position = rendered.rfind(self._labels[field])
        return len(self.remove(rendered[:position])) if position >= 0 else None


def _unescaped(match: re.Match[str]) -> str:
    """The character that an escape stands for."""
    if match[1]:
        return chr(int(match[1], 16))
    return (chr(int(match[2], 16)) + chr(int(match[3], 16))).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
