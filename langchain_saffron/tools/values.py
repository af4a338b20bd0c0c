"""How single values are written in calls that are not JSON: as they are, as JSON, as Python, or between marks."""

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from langchain_saffron.tools.validation import misfit

Strings = Literal["raw", "cdata", "json", "python", "quoted"]
Words = Literal["json", "python"]
Nested = Literal["json", "python", "own"]

CDATA, CDATA_END = "<![CDATA[", "]]>"
_PYTHON_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_CLOSERS = "[{("


@dataclass(frozen=True)
class Values:
    """How the values of arguments are written.

    Attributes:
        string: As they are, as they are or in a CDATA section, as JSON, as Python, or between `quote`s.
        boolean: `true` or `True`.
        null: `null` or `None`.
        array: As JSON, as Python, or with items as this says.
        object: The same; keys of its own form stand bare.
        quote: What stands around strings.
    """

    string: Strings = "raw"
    boolean: Words = "json"
    null: Words = "json"
    array: Nested = "json"
    object: Nested = "json"
    quote: str = ""

    @property
    def plain(self) -> bool:
        """Whether strings stand as they are, so that only the schema tells them from other values."""
        return self.string in ("raw", "cdata")

    def write(self, value: Any) -> str:
        """A value as a template writes it."""
        if isinstance(value, str):
            return self.write_string(value)
        if value is None:
            return "None" if self.null == "python" else "null"
        if isinstance(value, bool):
            return str(value) if self.boolean == "python" else json.dumps(value)
        if isinstance(value, list | tuple):
            if self.array == "own":
                return "[" + ",".join(map(self.write, value)) + "]"
            return repr(value) if self.array == "python" else json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict):
            if self.object == "own":
                items = sorted(value.items(), key=lambda item: str(item[0]).lower())
                return "{" + ",".join(f"{key}:{self.write(item)}" for key, item in items) + "}"
            return repr(value) if self.object == "python" else json.dumps(value, ensure_ascii=False)
        return json.dumps(value)

    def write_string(self, text: str) -> str:
        """A string as a template writes it."""
        if self.string == "json":
            return json.dumps(text, ensure_ascii=False)
        if self.string == "python":
            return repr(text)
        if self.string == "cdata" and any(character in text for character in "<&\n"):
            return f"{CDATA}{text}{CDATA_END}"
        return f"{self.quote}{text}{self.quote}" if self.string == "quoted" else text

    def read(self, written: str, schema: Any = True) -> Any:
        """The value of a text.

        Args:
            written: The text.
            schema: What it should fit; decides where a text could be a string or something else.

        Raises:
            ValueError: It is no value.
        """
        if self.plain:
            if self.string == "cdata" and written.startswith(CDATA) and written.endswith(CDATA_END):
                return written.removeprefix(CDATA).removesuffix(CDATA_END)
            if not isinstance(schema, dict) or may_be_other(schema):
                with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                    value = _plain(written)
                    if not isinstance(value, str) and (not isinstance(schema, dict) or misfit(value, schema) is None):
                        return value
            return written
        if self.quote and ("own" in (self.array, self.object) or written.startswith(self.quote)):
            return _OwnReader(written, self.quote).whole()
        try:
            return _plain(written)
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(str(error)) from error

    def end(self, text: str, stops: str) -> int | None:
        """Where a value ends that `text` begins with: at the first of `stops` outside strings and brackets.

        Returns:
            Its place; `None` where the value goes on.
        """
        depth, place, mark = 0, 0, ""
        while place < len(text):
            if self.quote and not mark and (not depth or "own" in (self.array, self.object)):
                if text.startswith(self.quote, place):
                    close = text.find(self.quote, place + len(self.quote))
                    if close < 0:
                        return None
                    place = close + len(self.quote)
                    continue
                if len(text) - place < len(self.quote) and self.quote.startswith(text[place:]):
                    return None
            character = text[place]
            if mark:
                if character == "\\":
                    place += 1
                elif character == mark:
                    mark = ""
            elif character in "\"'" and (not self.quote or self.array != "own"):
                mark = character
            elif not depth and character in stops:
                return place
            elif character in _CLOSERS:
                depth += 1
            elif character in "]})":
                depth -= 1
            place += 1
        return None


def may_be_other(schema: dict[str, Any]) -> bool:
    """Whether a value of a schema may be something else than a string."""
    if "enum" in schema or "const" in schema:
        return not all(isinstance(one, str) for one in schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type")
    return kinds != "string"


def _plain(written: str) -> Any:
    """A value of JSON, of Python, or of both mixed."""
    text = written.strip()
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    try:
        return json.loads(text, strict=False)
    except ValueError:
        value = ast.literal_eval(text)
    # what JSON cannot say (bytes, a set) is nothing that arguments can be
    try:
        json.dumps(value)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return value


class _OwnReader:
    """Reads a value whose strings stand between marks."""

    def __init__(self, text: str, quote: str) -> None:
        self._text, self._quote, self._place = text, quote, 0

    def whole(self) -> Any:
        value = self._value()
        if self._text[self._place :].strip():
            raise ValueError(f"there is text behind a value: {self._text[self._place :]!r}")
        return value

    def _value(self) -> Any:
        if self._text.startswith(self._quote, self._place):
            return self._string()
        if self._text.startswith("[", self._place):
            return list(self._items("]", self._value))
        if self._text.startswith("{", self._place):
            return dict(self._items("}", self._pair))
        start = self._place
        while self._place < len(self._text) and self._text[self._place] not in ",]}":
            self._place += 1
        return _plain(self._text[start : self._place])

    def _string(self) -> str:
        start = self._place + len(self._quote)
        end = self._text.find(self._quote, start)
        if end < 0:
            raise ValueError("a string has no end")
        self._place = end + len(self._quote)
        return self._text[start:end]

    def _items(self, end: str, read: Any) -> Iterator[Any]:
        self._place += 1
        while not self._text.startswith(end, self._place):
            yield read()
            if self._text.startswith(",", self._place):
                self._place += 1
            elif not self._text.startswith(end, self._place):
                raise ValueError("items are not separated")
        self._place += 1

    def _pair(self) -> tuple[str, Any]:
        if self._text.startswith(self._quote, self._place):
            key = self._string()
        else:
            end = self._text.find(":", self._place)
            if end < 0:
                raise ValueError("a key has no value")
            key, self._place = self._text[self._place : end], end
        if not self._text.startswith(":", self._place):
            raise ValueError("a key has no value")
        self._place += 1
        return key, self._value()
