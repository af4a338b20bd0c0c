"""An incremental parser of calls of a form."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_saffron.templates.safe_encoder import replace_surrogates
from langchain_saffron.tools.base import ENDED, CallParser, CallPiece, Event, Said, Spoiled, call_id, spoil
from langchain_saffron.tools.call_form import CallForm, JsonArguments, Parameters, Part, Slot, written_names
from langchain_saffron.tools.request import arguments_schema
from langchain_saffron.tools.scanner import JsonScanner

_NAME = re.compile(r"[A-Za-z0-9_.$-]*")
_ID = re.compile(r"[A-Za-z0-9_.:-]*")
# what a reading yields where it needs more text
_Reading = Iterator[Event | None]


class _Broken(Exception):
    """What is written is no call."""


class FormParser(CallParser):
    """Text, then calls, then perhaps more of both. Arguments are given out while they are written, where ids allow.

    The whole parser is one generator that stands still where it needs more text.
    """

    def __init__(self, form: CallForm, tools: Sequence[dict[str, Any]] = ()) -> None:
        """Prepares the parser.

        Args:
            form: How calls are written.
            tools: Those that may be called, in OpenAI's form; bare calls are of these only, if there are any.
        """
        self._form = form
        self._names = written_names(tools)
        self._schemas = {tool["function"]["name"]: arguments_schema(tool) for tool in tools}
        self._text = ""  # what was not dealt with yet
        self._over = False  # whether no more will come
        self._cut: str | None = None
        self._index = -1
        self._spoke = self._after = False
        self._ids: set[str] = set()
        self._reading = self._answer()

    def feed(self, text: str) -> Iterator[Event]:
        """Read on."""
        self._text += text
        yield from self._go_on()

    def finish(self, cut: str | None = None, token_text: str = "") -> Iterator[Event]:
        """Read the end."""
        self._cut, self._over = cut, True
        yield from self._go_on()

    def _go_on(self) -> Iterator[Event]:
        for event in self._reading:
            if event is None:
                return
            yield event

    # The answer.

    def _answer(self) -> _Reading:
        if self._form.bare:
            yield from self._bare_answer()
        else:
            while (yield from self._until_call()):
                yield from self._calls(self._form.opening)
        while not self._over:
            yield None
        yield from self._say(self._text.rstrip() if self._index >= 0 else self._text)
        self._text = ""

    def _until_call(self) -> Iterator[Event | None]:
        """Text up to the next call; whether there is one."""
        trigger = self._form.trigger
        while True:
            place = self._text.find(trigger)
            if place >= 0:
                yield from self._say(self._text[:place].rstrip())
                self._text = self._text[place:]
                return True
            ready = self._text[: len(self._text) - _overlap(self._text, trigger)].rstrip()
            self._text = self._text[len(ready) :]
            yield from self._say(ready)
            if self._over:
                return False
            yield None

    def _bare_answer(self) -> _Reading:
        """A call can only begin the answer."""
        opening = self._form.opening.lstrip()
        while not self._over and len(self._text.lstrip()) < len(opening) and opening.startswith(self._text.lstrip()):
            yield None
        start = self._text.lstrip()
        if not start.startswith(opening):
            yield from self._said_all()
            return
        # the name tells, as far as tools are known
        while not self._over and self._names and not self._named(start[len(opening) :]):
            rest = start[len(opening) :]
            if not any(name.startswith(rest) for name in self._names):
                break
            yield None
            start = self._text.lstrip()
        rest = start[len(opening) :]
        known = self._named(rest) if self._names else start != opening
        if known or (self._cut and any(name.startswith(rest) for name in self._names)):
            self._text = start
            yield from self._calls(opening)
        yield from self._said_all()

    def _named(self, text: str) -> bool:
        return any(text.startswith(name) for name in self._names)

    def _said_all(self) -> _Reading:
        while not self._over:
            ready = self._text.rstrip() if self._index >= 0 else self._text
            self._text = self._text[len(ready) :]
            yield from self._say(ready)
            yield None

    # Calls.

    def _calls(self, opening: str) -> _Reading:
        """Calls that follow each other, and their end."""
        between, closing = self._form.between, self._form.closing
        call = _Call(self, opening)
        while True:
            try:
                yield from call.read()
                following = yield from self._one_of(between, closing)
            except _Broken as broken:
                yield from self._spoil(call, str(broken))
                return
            yield from call.done()
            self._after = True
            if not following:
                return
            call = _Call(self, "")

    def _one_of(self, between: str | None, closing: str) -> Iterator[Event | None]:
        """What follows a call: another one, or nothing. Blanks of a marker at the answer's end may be missing."""
        while True:
            text = self._text
            # a closing that is empty, or that the other begins with, has to wait
            waits = bool(between) and between is not None and between.startswith(text) and text != between
            if between and text.startswith(between):
                self._text = text[len(between) :]
                return True
            if text.startswith(closing) and not (waits and not self._over):
                self._text = text[len(closing) :]
                return False
            if self._over or not (waits or closing.startswith(text)):
                if text.lstrip().startswith(closing.strip()) and closing.strip():
                    self._text = text.lstrip()[len(closing.strip()) :]
                    return False
                raise _Broken((self._cut or ENDED) if self._over else "there is text between its arguments and its end")
            yield None

    def _spoil(self, call: "_Call", error: str) -> Iterator[Event]:
        """End a call that is none: with all that was written of it, so that nothing is lost."""
        end = self._form.closing.strip()
        place = self._text.find(end) if end and not self._over else -1
        while not self._over and place < 0:
            yield None  # type: ignore[misc]
            place = self._text.find(end) if end else -1
        written, self._text = (self._text, "") if place < 0 else (self._text[:place], self._text[place + len(end) :])
        yield from call.begun(None)
        yield from call.held()
        yield from call.piece(written if call.args else written.strip())
        yield from call.piece(spoil(call.args))
        yield Spoiled(self._index, error)
        self._after = True

    def _say(self, text: str) -> Iterator[Event]:
        if self._after:
            text = text.lstrip()
            text = f"\n{text}" if text and self._spoke else text
        if text:
            self._spoke, self._after = True, False
            yield Said(text)


class _Call:
    """One call while it is read."""

    def __init__(self, parser: FormParser, opening: str) -> None:
        self._parser = parser
        self._form = parser._form
        self._opening = opening
        self._announced = False
        self._name: str | None = None
        self._id: str | None = None
        # an id that comes last is told first
        self._wait = Slot.ID in self._form.call
        self._pieces: list[str] = []
        self.args = ""

    def read(self) -> _Reading:
        yield from self._literal(self._opening)
        parts = self._form.call
        for place, part in enumerate(parts):
            follows = parts[place + 1] if place + 1 < len(parts) else ""
            if isinstance(part, str):
                yield from self._literal(part)
            elif part is Slot.NAME:
                yield from self._read_name(follows)
            elif part is Slot.ID:
                self._id = yield from self._word(_ID)
            elif part is Slot.INDEX:
                yield from self._word(_ID)
            elif isinstance(self._form.arguments, JsonArguments):
                yield from self._json()
            else:
                yield from self._parameters(self._form.arguments, self._next_text(parts[place + 1 :]))

    def begun(self, name: str | None) -> Iterator[Event]:
        """Announce the call, once."""
        if self._announced:
            return
        self._announced = True
        parser = self._parser
        parser._index += 1
        identifier = self._id if self._id and self._id not in parser._ids else call_id()
        parser._ids.add(identifier)
        yield CallPiece(parser._index, "", identifier, name or self._name)

    def piece(self, args: str) -> Iterator[Event]:
        """The next piece of the arguments."""
        if args:
            self.args += args
            yield CallPiece(self._parser._index, args)

    def held(self) -> Iterator[Event]:
        """What waited for the id."""
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            yield from self.piece(piece)

    def done(self) -> Iterator[Event]:
        """The call is whole."""
        yield from self.begun(self._name)
        yield from self.held()

    # What a call consists of. Each reads on in the parser's text.

    def _more(self) -> _Reading:
        if self._parser._over:
            raise _Broken(self._parser._cut or ENDED)
        yield None

    def _literal(self, text: str) -> _Reading:
        parser = self._parser
        while not parser._text.startswith(text):
            if not text.startswith(parser._text):
                raise _Broken(f"it does not go on with {text.strip()!r}")
            yield from self._more()
        parser._text = parser._text[len(text) :]

    def _word(self, pattern: re.Pattern[str]) -> Iterator[Event | None]:
        parser = self._parser
        while True:
            match = pattern.match(parser._text)
            assert match is not None
            if match.end() < len(parser._text) or parser._over:
                parser._text = parser._text[match.end() :]
                return match[0]
            yield from self._more()

    def _read_name(self, follows: Part) -> _Reading:
        parser = self._parser
        end = follows if isinstance(follows, str) else ""
        while True:
            text = parser._text
            known = next((n for n in parser._names if text.startswith(n + end)), None)
            longer = any(n.startswith(text) and n != text for n in parser._names)
            if known is not None and (end or not longer):
                name = known
                break
            match = _NAME.match(text)
            assert match is not None
            place = text.find(end) if end else match.end()
            if 0 <= place < len(text) and not (longer and not parser._over):
                name = text[:place]
                break
            yield from self._more()
        parser._text = parser._text[len(name) :]
        if not name:
            raise _Broken("it has no name")
        if self._name is not None and name != self._name:
            raise _Broken("it has two names")
        first, self._name = self._name is None, name
        if first and not self._wait:
            yield from self.begun(name)

    def _give(self, text: str) -> Iterator[Event]:
        if self._wait:
            self._pieces.append(text)
        else:
            yield from self.piece(text)

    def _json(self) -> _Reading:
        parser, scanner, whole = self._parser, JsonScanner(), ""
        while True:
            for place, character in enumerate(parser._text):
                if not scanner.push(character):
                    yield from self._give(parser._text[:place])
                    parser._text = parser._text[place:]
                    raise _Broken("its JSON is broken")
                if scanner.depth == 0 and character == "}":
                    read, parser._text = parser._text[: place + 1], parser._text[place + 1 :]
                    yield from self._give(read)
                    try:
                        json.loads(whole + read, strict=False)
                    except (ValueError, RecursionError):
                        raise _Broken("its arguments are not a JSON object") from None
                    return
            read, parser._text = parser._text, ""
            whole += read
            yield from self._give(read)
            yield from self._more()

    def _next_text(self, rest: Sequence[Part]) -> tuple[str, ...]:
        """What may follow the arguments."""
        if rest and isinstance(rest[0], str):
            return (rest[0],)
        return tuple(text for text in (self._form.between, self._form.closing) if text)

    def _parameters(self, style: Parameters, ends: tuple[str, ...]) -> _Reading:
        parser = self._parser
        schema = parser._schemas.get(self._name or "")
        properties = (schema or {}).get("properties", {})
        given: set[str] = set()
        yield from self._give("{")
        while not (yield from self._ends(style, ends)):
            if given:
                yield from self._literal(style.separator)
            yield from self._literal(style.opening)
            key = yield from self._key(style)
            text = yield from self._value(style, ends)
            inner = properties.get(key, True) if schema is None or properties else True
            if isinstance(inner, dict) and schema is not None:
                inner = {**{k: schema[k] for k in ("$defs", "definitions") if k in schema}, **inner}
            try:
                written = replace_surrogates(json.dumps(style.values.read(text, inner), ensure_ascii=False))
            except (ValueError, TypeError, RecursionError) as error:
                parser._text = text + parser._text
                raise _Broken(f"its argument {key!r} cannot be read") from error
            if key in given:
                raise _Broken(f"it has its argument {key!r} twice")
            yield from self._give(f"{', ' if given else ''}{json.dumps(key, ensure_ascii=False)}: {written}")
            given.add(key)
        yield from self._give("}")

    def _ends(self, style: Parameters, ends: tuple[str, ...]) -> Iterator[Event | None]:
        """Whether all arguments are read: what follows them is there, and not another one."""
        another = style.separator + style.opening
        while True:
            text = self._parser._text
            for end in ends:
                if text.startswith(end):
                    return True
            if not any(end.startswith(text) for end in ends) or (another and text.startswith(another)):
                return False
            yield from self._more()

    def _key(self, style: Parameters) -> Iterator[Event | None]:
        parser = self._parser
        while True:
            places = [
                (place, middle)
                for middle in {style.middle, style.before_text}
                if (place := parser._text.find(middle)) >= 0
            ]
            if places:
                place, middle = min(places)
                key, parser._text = parser._text[:place], parser._text[place + len(middle) :]
                return key
            yield from self._more()

    def _value(self, style: Parameters, ends: tuple[str, ...]) -> Iterator[Event | None]:
        parser = self._parser
        stops = {text[0] for text in (style.separator, *ends) if text}
        while True:
            if style.closing:
                start = parser._text
                from_place = (
                    start.find("]]>") if style.values.string == "cdata" and start.startswith("<![CDATA[") else 0
                )
                place: int | None = start.find(style.closing, max(from_place, 0)) if from_place >= 0 else -1
                place = None if place is not None and place < 0 else place
            else:
                place = style.values.end(parser._text, "".join(stops))
            if place is not None:
                value, parser._text = parser._text[:place], parser._text[place + len(style.closing) :]
                return value
            yield from self._more()


def _overlap(text: str, marker: str) -> int:
    """The length of the longest end of `text` that begins `marker`."""
    return next((size for size in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:size])), 0)
