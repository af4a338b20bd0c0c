"""Text that is read while it is written, by generators that stand still where they need more of it."""

import re
from collections.abc import Generator, Iterator
from typing import TypeVar

from langchain_saffron.tools.base import ENDED, Event, Said

T = TypeVar("T")
# `None` where more text is needed
Reading = Generator[Event | None, None, T]


class BrokenCall(Exception):
    """What is written is no call."""


class Speech:
    """Text that is given out around calls: blanks behind a call become one line break.

    Attributes:
        begun: Whether any text was given out.
        after_call: Whether nothing but blanks followed the last call.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.begun = self.after_call = False

    def say(self, text: str) -> Iterator[Event]:
        """Give out the next text, if it is any."""
        if self.after_call:
            text = text.lstrip()
            text = f"\n{text}" if text and self.begun else text
        if text:
            self.begun, self.after_call = True, False
            yield Said(text)


class Text:
    """What was written and not dealt with yet.

    Attributes:
        text: That text.
        over: Whether no more will come.
        cut: Why the answer ended early, if it did.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.text = ""
        self.over = False
        self.cut: str | None = None

    def take(self, size: int) -> str:
        """The next characters, which are dealt with then."""
        taken, self.text = self.text[:size], self.text[size:]
        return taken

    def more(self) -> Reading[None]:
        """Wait for more text.

        Raises:
            BrokenCall: There will be none.
        """
        if self.over:
            raise BrokenCall(self.cut or ENDED)
        yield None

    def literal(self, text: str, *others: str) -> Reading[None]:
        """Read a text, or one of others in its place.

        Raises:
            BrokenCall: There is none of them.
        """
        while True:
            found = next((one for one in (text, *others) if self.text.startswith(one)), None)
            if found is not None:
                self.take(len(found))
                return
            if not any(one.startswith(self.text) for one in (text, *others)):
                raise BrokenCall(f"it does not go on with {text.strip()!r}")
            yield from self.more()

    def word(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Read what matches a pattern, as much as there is."""
        while True:
            match = pattern.match(self.text)
            size = match.end() if match else 0
            if size < len(self.text) or self.over:
                return self.take(size)
            yield from self.more()
