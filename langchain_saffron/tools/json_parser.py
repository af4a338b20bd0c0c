"""An incremental parser of calls that are JSON objects, between markers or bare."""

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from langchain_saffron.templates.overlap import overlap
from langchain_saffron.templates.safe_encoder import replace_surrogates
from langchain_saffron.tools.base import ENDED, CallParser, CallPiece, Event, Spoiled, call_id, spoil
from langchain_saffron.tools.reading import Speech
from langchain_saffron.tools.scanner import JsonScanner

PYTHON_TAG = "<|python_tag|>"
_KEYS = ("arguments", "parameters")
_NAMED = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")?')
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')


class JsonCallParser(CallParser):
    """Text, then calls, then perhaps more of both.

    Arguments are given out while they are written, once the name that precedes them is known. Without markers, a
    call can stand only at the very beginning and after another one, and only of a tool that is known: an answer may
    happen to be JSON.
    """

    def __init__(self, opening: str, closing: str, names: Collection[str] = ()) -> None:
        """Prepares the parser.

        Args:
            opening: The marker before a call; empty if there is none.
            closing: The one behind it.
            names: Of the tools; empty if they are not known.
        """
        self._opening, self._closing = opening, closing
        self._names = names
        self._text = ""  # what was not dealt with yet; within a call, all of it
        self._state: Callable[[], Iterator[Event]] = self._between
        self._index = -1
        self._speech = Speech()

    def feed(self, text: str) -> Iterator[Event]:
        """Read on."""
        self._text += text
        state = None
        while state != self._state:
            state = self._state
            yield from state()

    def finish(self, cut: str | None = None, token_text: str = "") -> Iterator[Event]:
        """Read the end."""
        if self._state == self._between:
            yield from self._speech.say(self._text.rstrip() if self._index >= 0 else self._text)
        elif self._state == self._inside:
            if self._opening or self._begun or (cut and self._may_be_call()):
                yield from self._spoil(cut or ENDED)
            else:
                yield from self._speech.say(self._text)
        elif self._state == self._broken:
            yield from self._spoil(self._error)
        self._text = ""

    # The states. Each reads on in `_text`, and sets `_state` once it is done.

    def _between(self) -> Iterator[Event]:
        if not self._opening:
            yield from self._between_bare()
            return
        place = self._text.find(self._opening)
        if place >= 0:
            yield from self._speech.say(self._text[:place].rstrip())
            self._enter(self._text[place + len(self._opening) :])
            return
        # what could begin a call waits, and so do blanks, which count only if text follows
        ready = self._text[: len(self._text) - overlap(self._text, [self._opening])].rstrip()
        self._text = self._text[len(ready) :]
        yield from self._speech.say(ready)

    def _between_bare(self) -> Iterator[Event]:
        start = self._text.lstrip(" \t\r\n;" if self._index >= 0 else " \t\r\n")
        if len(start) < len(PYTHON_TAG) and PYTHON_TAG.startswith(start):
            return
        start = start.removeprefix(PYTHON_TAG).lstrip()
        if start.startswith("{") and not self._speech.begun:
            self._enter(start)
        elif start:
            yield from self._say_all()

    def _enter(self, text: str) -> None:
        self._text = text
        self._scanner = JsonScanner()
        self._seen = 0  # characters of `_text` that were scanned
        self._begun = False  # whether the call was announced
        self._given = -1  # where in `_text` the arguments begin that were not given out yet
        self._end = -1  # where they end
        self._name: str | None = None
        self._args = ""  # the arguments that were given out
        self._error = ""
        self._state = self._inside

    def _inside(self) -> Iterator[Event]:
        for character in self._text[self._seen :]:
            depth = self._scanner.depth
            if not self._scanner.push(character):
                yield from self._fail("its JSON is broken")
                return
            self._seen += 1
            if depth == 1 and self._scanner.depth == 2 and not self._begun:
                head = _HEAD.fullmatch(self._text, 0, self._seen)
                if head and self._is_known(name := _string(head[1])):
                    self._given = self._seen - 1
                    yield from self._begin(name)
            elif depth == 2 and self._scanner.depth == 1 and self._end < 0:
                self._end = self._seen
            elif depth == 1 and self._scanner.depth == 0:
                yield from self._close()
                return
        yield from self._give()

    def _behind(self) -> Iterator[Event]:
        rest = self._text.lstrip()
        if rest.startswith(self._closing):
            self._leave(rest[len(self._closing) :])
        elif rest.startswith(self._opening):  # the marker was forgotten
            self._leave(rest)
        elif not self._closing.startswith(rest) and not self._opening.startswith(rest):
            self._break("there is text between its object and its end")
        yield from ()

    def _broken(self) -> Iterator[Event]:
        place = self._text.find(self._closing) if self._closing else -1
        if place >= 0:
            rest, self._text = self._text[place + len(self._closing) :], self._text[:place]
            yield from self._spoil(self._error)
            self._leave(rest)

    def _close(self) -> Iterator[Event]:
        """The object ends with what was scanned last."""
        call = _call(self._text[: self._seen])
        if call is None or not self._is_known(call[0]):
            yield from self._fail("its JSON is not an object with a name and arguments")
            return
        if not self._begun:
            yield from self._begin(call[0])
            yield from self._piece(replace_surrogates(json.dumps(call[1], ensure_ascii=False)))
        else:
            yield from self._give()
            if call != (self._name, json.loads(self._args, strict=False)):
                yield from self._fail("it has its name or arguments twice")
                return
        rest = self._text[self._seen :]
        if self._closing:
            self._text, self._given = rest, -1
            self._state = self._behind
        else:
            self._leave(rest)

    def _leave(self, rest: str) -> None:
        self._text = rest
        self._speech.after_call = True
        self._state = self._between

    def _fail(self, error: str) -> Iterator[Event]:
        """What was scanned last cannot belong to a call."""
        if self._opening or self._begun:
            yield from self._give()
            self._text = self._text[max(self._given, 0) :]
            self._break(error)
        else:  # an answer that happens to be JSON
            self._state = self._between
            yield from self._say_all()

    def _break(self, error: str) -> None:
        self._error = error
        self._state = self._broken

    # What is given out.

    def _is_known(self, name: str | None) -> bool:
        return bool(self._opening or not self._names or name in self._names)

    def _may_be_call(self) -> bool:
        """Whether what was cut off may have become a call."""
        named = _NAMED.match(self._text)
        return named is not None and (named[1] is None or self._is_known(_string(named[1])))

    def _say_all(self) -> Iterator[Event]:
        """Behind a call, blanks wait: at the end they do not count."""
        ready = self._text.rstrip() if self._index >= 0 else self._text
        self._text = self._text[len(ready) :]
        yield from self._speech.say(ready)

    def _begin(self, name: str | None) -> Iterator[Event]:
        self._begun, self._name = True, name
        self._index += 1
        yield CallPiece(self._index, "", call_id(), name)

    def _give(self) -> Iterator[Event]:
        if self._given >= 0:
            start, self._given = self._given, self._seen if self._end < 0 else self._end
            yield from self._piece(self._text[start : self._given])

    def _piece(self, args: str) -> Iterator[Event]:
        if args:
            self._args += args
            yield CallPiece(self._index, args)

    def _spoil(self, error: str) -> Iterator[Event]:
        """End a call that is none: with all that was written of it, so that nothing is lost."""
        if not self._begun:
            named = _NAMED.match(self._text)
            yield from self._begin(_string(named[1]) if named and named[1] else None)
            yield from self._piece(self._text.strip())
        elif self._state == self._broken:
            yield from self._piece(self._text.rstrip())
        yield from self._piece(spoil(self._args))
        yield Spoiled(self._index, error)


def _call(written: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of a whole object, if it is a call."""
    try:
        call = json.loads(written, strict=False)
        key = next((key for key in _KEYS if key in call), None)
        arguments = call[key] if key else {}
        if isinstance(arguments, str) and arguments:  # some models write them as a string
            arguments = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return None
    if arguments is None or arguments == "":
        arguments = {}
    name, other = call.get("name"), key is None and len(call) > 1
    return (name, arguments) if name and isinstance(name, str) and isinstance(arguments, dict) and not other else None


def _string(quoted: str) -> str | None:
    try:
        return str(json.loads(quoted, strict=False)) or None
    except ValueError:
        return None
