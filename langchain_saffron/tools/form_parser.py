"""An incremental parser of answers with calls of a form."""

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_saffron.templates.overlap import overlap
from langchain_saffron.tools.base import ENDED, CallParser, Event, Spoiled, spoil
from langchain_saffron.tools.call_form import CallForm
from langchain_saffron.tools.call_reader import CallReader
from langchain_saffron.tools.reading import BrokenCall, Reading, Speech, Text
from langchain_saffron.tools.request import arguments_schema


class FormParser(CallParser):
    """Text, then calls, then perhaps more of both.

    The whole parser is one generator that stands still where it needs more text. Without markers, calls can stand only
    at the very beginning, and only of tools that are known, if any are.
    """

    def __init__(self, form: CallForm, tools: Sequence[dict[str, Any]] = ()) -> None:
        """Prepares the parser.

        Args:
            form: How calls are written.
            tools: Those that may be called, in OpenAI's form.
        """
        self._form = form
        self._schemas = {tool["function"]["name"]: arguments_schema(tool) for tool in tools}
        self._text = Text()
        self._ids: set[str] = set()
        self._count = 0
        self._speech = Speech()
        self._reading = self._answer()

    def feed(self, text: str) -> Iterator[Event]:
        """Read on."""
        self._text.text += text
        yield from self._go_on()

    def finish(self, cut: str | None = None, token_text: str = "") -> Iterator[Event]:
        """Read the end."""
        self._text.cut, self._text.over = cut, True
        yield from self._go_on()

    def _go_on(self) -> Iterator[Event]:
        for event in self._reading:
            if event is None:
                return
            yield event

    # Text.

    def _answer(self) -> Reading[None]:
        if self._form.bare:
            yield from self._bare_answer()
        else:
            while (yield from self._until_call()):
                yield from self._calls(self._form.opening)
        while not self._text.over:
            # behind a call, blanks wait: at the end they do not count
            yield from self._say(len(self._text.text.rstrip() if self._count else self._text.text))
            yield None
        yield from self._say(len(self._text.text.rstrip() if self._count else self._text.text))

    def _until_call(self) -> Reading[bool]:
        """Text up to the next call; whether there is one."""
        trigger = self._form.trigger
        while True:
            text = self._text.text
            place = text.find(trigger)
            before = self._form.before
            if place >= 0:
                yield from self._say(len(text[:place].rstrip().removesuffix(before).rstrip()))
                self._text.text = text[place:]
                return True
            # what could begin a call waits, and so do blanks, which count only if text follows
            waits = overlap(text, (trigger, before + trigger))
            yield from self._say(len(text[: len(text) - waits].rstrip()))
            if self._text.over:
                return False
            yield None

    def _bare_answer(self) -> Reading[None]:
        """Calls that may begin the answer."""
        opening = self._form.opening.lstrip()
        while True:
            start = self._text.text.lstrip()
            rest = start[len(opening) :]
            begun = start.startswith(opening)
            if begun and (any(rest.startswith(name) for name in self._schemas) or (rest and not self._schemas)):
                break
            waits = any(name.startswith(rest) for name in self._schemas or [""]) if begun else opening.startswith(start)
            if not waits or (self._text.over and not (begun and self._text.cut)):
                return
            if self._text.over:
                break
            yield None
        self._text.text = start
        yield from self._calls(opening)

    def _say(self, size: int) -> Iterator[Event]:
        """Give out the next characters."""
        yield from self._speech.say(self._text.take(size))

    # Calls.

    def _calls(self, opening: str) -> Reading[None]:
        """Calls that follow each other, and their end."""
        again = True
        while again:
            call = CallReader(self._form, self._text, self._count, self._schemas)
            try:
                yield from call.read(opening)
                again = yield from self._end()
                yield from self._announce(call)
            except BrokenCall as broken:
                yield from self._spoil(call, str(broken))
                again = False
            self._speech.after_call, opening = True, ""

    def _end(self) -> Reading[bool]:
        """What follows a call; whether that is another one. Blanks of an end may differ."""
        between, closing = self._form.between or "", self._form.closing
        while True:
            text = self._text.text
            waits = not self._text.over and text != between and between.startswith(text)
            if between and text.startswith(between):
                self._text.take(len(between))
                return True
            if text.startswith(closing) and not waits:
                self._text.take(len(closing))
                return False
            if self._text.over or not (waits or closing.startswith(text)):
                end = closing.strip()
                if end and text.lstrip().startswith(end):
                    self._text.text = text.lstrip().removeprefix(end)
                    return False
                over = self._text.cut or ENDED
                raise BrokenCall(over if self._text.over else "there is text between its arguments and its end")
            yield None

    def _announce(self, call: CallReader) -> Iterator[Event]:
        yield from call.announce(self._ids)
        self._ids.add(call.id)
        self._count = max(self._count, call.index + 1)

    def _spoil(self, call: CallReader, error: str) -> Reading[None]:
        """End a call that is none: with all that was written of it, so that nothing is lost."""
        end = self._form.closing.strip()
        while not self._text.over and (not end or end not in self._text.text):
            yield None
        written, _, self._text.text = self._text.text.partition(end) if end else (self._text.text, "", "")
        yield from self._announce(call)
        yield from call.piece(written if call.args else written.strip())
        yield from call.piece(spoil(call.args))
        yield Spoiled(call.index, error)
