"""Reads one call of a form while it is written."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_saffron.templates.safe_encoder import replace_surrogates
from langchain_saffron.tools.base import CallPiece, Event, call_id
from langchain_saffron.tools.call_form import CallForm, JsonArguments, Parameters, Part, Slot
from langchain_saffron.tools.reading import BrokenCall, Reading, Text
from langchain_saffron.tools.scanner import JsonScanner
from langchain_saffron.tools.values import CDATA, CDATA_END

_NAME = re.compile(r"[A-Za-z0-9_.$-]*")
_WORD = re.compile(r"[A-Za-z0-9_.:-]*")


class CallReader:
    """Reads one call. Its arguments are given out while they are written, where its id does not come behind them.

    Attributes:
        args: The arguments that were given out.
        index: Which call of the answer it is.
        id: Of the call; empty as long as it is not announced.
    """

    def __init__(self, form: CallForm, text: Text, index: int, schemas: Mapping[str, dict[str, Any]]) -> None:
        """Prepares it.

        Args:
            form: How calls are written.
            text: Where it is read from.
            index: Which call of the answer it is.
            schemas: Of the arguments of each tool.
        """
        self.args = ""
        self.id = ""
        self.index = index
        self._form, self._text, self._schemas = form, text, schemas
        self._names = sorted(schemas, key=len, reverse=True)
        self._name: str | None = None
        self._written_id = ""
        # the first piece of a call has its id
        self._waits = Slot.ID in form.call
        self._waiting: list[str] = []

    def read(self, opening: str) -> Reading[None]:
        """Read all of it but what ends it.

        Args:
            opening: What stands before its first slot.

        Raises:
            BrokenCall: It is none, or the text is over.
        """
        yield from self._text.literal(opening)
        parts = self._form.call
        for place, part in enumerate(parts):
            rest = parts[place + 1 :]
            if isinstance(part, str):
                others = [call[place] for call in self._form.calls[1:]]
                yield from self._text.literal(part, *(text for text in others if isinstance(text, str)))
            elif part is Slot.NAME:
                yield from self._read_name([call[place + 1] for call in self._form.calls] if rest else [])
            elif part is Slot.ID:
                self._written_id = yield from self._text.word(_WORD)
            elif part is Slot.INDEX:
                yield from self._text.word(_WORD)
            elif isinstance(self._form.arguments, JsonArguments):
                yield from self._json()
            else:
                yield from self._parameters(self._form.arguments, self._ends(rest))

    def announce(self, taken: set[str]) -> Iterator[Event]:
        """Tell of the call, once, and give out what had to wait for that.

        Args:
            taken: Ids of other calls.
        """
        if not self.id:
            self.id = self._written_id if self._written_id and self._written_id not in taken else call_id()
            yield CallPiece(self.index, "", self.id, self._name)
        waiting, self._waiting, self._waits = self._waiting, [], False
        for piece in waiting:
            yield from self.piece(piece)

    def piece(self, args: str) -> Iterator[Event]:
        """The next piece of the arguments."""
        if args:
            self.args += args
            yield CallPiece(self.index, args)

    def _give(self, args: str) -> Iterator[Event]:
        if self._waits:
            self._waiting.append(args)
        else:
            yield from self.piece(args)

    def _read_name(self, follows: Sequence[Part]) -> Reading[None]:
        ends = [part for part in follows if isinstance(part, str)]
        while True:
            text = self._text.text
            longer = not self._text.over and any(name.startswith(text) and name != text for name in self._names)
            known = next((name for name in self._names for end in ends or [""] if text.startswith(name + end)), None)
            if known is not None and (ends or not longer):
                name = known
                break
            match = _NAME.match(text)
            places = [found for end in ends if (found := text.find(end)) >= 0]
            place = min(places, default=-1) if ends else match.end() if match else 0
            if 0 <= place < len(text) and not longer:
                name = text[:place]
                break
            yield from self._text.more()
        if not name:
            raise BrokenCall("it has no name")
        if self._name is not None and name != self._name:
            raise BrokenCall("it has two names")
        self._text.take(len(name))
        self._name = name
        if not self._waits:
            yield from self.announce(set())

    # Arguments in JSON.

    def _json(self) -> Reading[None]:
        scanner, whole = JsonScanner(), ""
        while True:
            text = self._text.text
            for place, character in enumerate(text):
                if not scanner.push(character):
                    yield from self._give(self._text.take(place))
                    raise BrokenCall("its JSON is broken")
                if scanner.depth == 0 and character == "}":
                    whole += text[: place + 1]
                    yield from self._give(self._text.take(place + 1))
                    try:
                        json.loads(whole, strict=False)
                    except (ValueError, RecursionError):
                        raise BrokenCall("its arguments are not a JSON object") from None
                    return
            whole += text
            yield from self._give(self._text.take(len(text)))
            yield from self._text.more()

    # Arguments one by one.

    def _ends(self, rest: Sequence[Part]) -> tuple[str, ...]:
        """What may follow the arguments."""
        if rest and isinstance(rest[0], str):
            return (rest[0],)
        return tuple(text for text in (self._form.between, self._form.closing) if text)

    def _parameters(self, style: Parameters, ends: tuple[str, ...]) -> Reading[None]:
        given: set[str] = set()
        yield from self._give("{")
        while not (yield from self._is_over(style, ends)):
            if given:
                yield from self._text.literal(style.separator)
            yield from self._text.literal(style.opening)
            key = yield from self._key(style)
            written = yield from self._value(style, ends)
            try:
                value = style.values.read(written, self._schema(key))
                args = replace_surrogates(json.dumps(value, ensure_ascii=False))
            except (ValueError, TypeError, RecursionError) as error:
                self._text.text = written + self._text.text
                raise BrokenCall(f"its argument {key!r} cannot be read") from error
            if key in given:
                raise BrokenCall(f"it has its argument {key!r} twice")
            yield from self._give(f"{', ' if given else ''}{json.dumps(key, ensure_ascii=False)}: {args}")
            given.add(key)
        yield from self._give("}")

    def _schema(self, key: str) -> Any:
        """The schema of an argument; `True` where it is not known."""
        schema = self._schemas.get(self._name or "")
        inner = schema.get("properties", {}).get(key, True) if schema is not None else True
        if schema is None or not isinstance(inner, dict):
            return inner
        definitions: dict[str, Any] = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        return {**definitions, **inner}

    def _is_over(self, style: Parameters, ends: tuple[str, ...]) -> Reading[bool]:
        """Whether what follows the arguments is there, and not another one."""
        another = style.separator + style.opening
        while True:
            text = self._text.text
            if any(text.startswith(end) for end in ends):
                return True
            if not any(end.startswith(text) for end in ends) or (another and text.startswith(another)):
                return False
            yield from self._text.more()

    def _key(self, style: Parameters) -> Reading[str]:
        while True:
            middles = {style.middle, style.before_text}
            places = [(place, middle) for middle in middles if (place := self._text.text.find(middle)) >= 0]
            if places:
                place, middle = min(places)
                key = self._text.take(place)
                self._text.take(len(middle))
                return key
            yield from self._text.more()

    def _value(self, style: Parameters, ends: tuple[str, ...]) -> Reading[str]:
        stops = "".join({text[0] for text in (style.separator, *ends) if text})
        while True:
            text = self._text.text
            if style.closing:
                marked = style.values.string == "cdata" and text.startswith(CDATA)
                found = text.find(CDATA_END + style.closing) + len(CDATA_END) if marked else text.find(style.closing)
                place = None if found < (len(CDATA_END) if marked else 0) else found
            else:
                place = style.values.end(text, stops)
            if place is not None:
                value = self._text.take(place)
                self._text.take(len(style.closing))
                return value
            yield from self._text.more()
