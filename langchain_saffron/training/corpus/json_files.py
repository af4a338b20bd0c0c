"""JSON lines, and JSON arrays, read as streams."""

import gzip
import io
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from langchain_saffron.errors import CorpusError
from langchain_saffron.training.corpus.messages import kind_of
from langchain_saffron.training.corpus.source import NOT_UTF8, RawRecord, reading

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
_STRIDE = 4096

# what may stand before the bracket or comma that ends or nests an item of an array; possessive, so that a
# string that the buffer cuts in two fails at once
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BETWEEN = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+[\[\]{},]", re.DOTALL)
_INSIDE = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+[\[\]{}]", re.DOTALL)

# the byte at which it begins, its number in the words of messages, its text
_Piece = tuple[int, int, bytes]


class JsonFile:
    """JSON lines, or one JSON array in a file that ends in `.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0
        self._array = False
        self._marks: list[tuple[int, int]] = []
        with reading(path), self._open() as file:
            begin, begin_number = 0, 1
            if path.name.lower().endswith((".json", ".json.gz")):
                head = file.read(_CHUNK)
                text = head.removeprefix(_BOM).lstrip()
                if text.startswith(b"["):
                    self._array = True
                    begin, begin_number = len(head) - len(text) + 1, 0
                elif text.partition(b"\n")[0].rstrip() == b"{":
                    raise CorpusError(f"{path} is one object over many lines: known are JSON lines and one array")
            for offset, number, _ in self._pieces(file, begin, begin_number):
                if self.records % _STRIDE == 0:
                    self._marks.append((offset, number))
                self.records += 1

    def read(self, start: int, stop: int) -> Iterator[RawRecord]:
        """The records in a range that is within the file and not empty."""
        mark = self._marks[start // _STRIDE]
        passed = start - start % _STRIDE
        with reading(self.path), self._open() as file:
            for _, number, text in islice(self._pieces(file, *mark), start - passed, stop - passed):
                yield f"{self.path.name}, {'item' if self._array else 'line'} {number}", *_parsed(text)

    def _open(self) -> BinaryIO:
        if self.path.name.lower().endswith(".gz"):
            # lines of a GzipFile come slowly, as it is written in Python
            return io.BufferedReader(gzip.GzipFile(self.path), _CHUNK)
        return self.path.open("rb", buffering=_CHUNK)

    def _pieces(self, file: BinaryIO, begin: int, number: int) -> Iterator[_Piece]:
        file.seek(begin)
        return _items(file, begin, number, self.path) if self._array else _lines(file, begin, number)


def _lines(file: BinaryIO, offset: int, number: int) -> Iterator[_Piece]:
    """Every line that is not blank."""
    for line in file:
        text = line if offset else line.removeprefix(_BOM)
        if text and not text.isspace():
            yield offset, number, text
        offset += len(line)
        number += 1


def _items(file: BinaryIO, offset: int, number: int, path: Path) -> Iterator[_Piece]:
    """Every item of a JSON array from the one at `offset`, split at commas and brackets but not parsed.

    Raises:
        CorpusError: The array has no end or not its own: what follows would be lost without a word.
    """
    buffer, begin, at, depth = b"", 0, 0, 1
    while depth:
        match = (_BETWEEN if depth == 1 else _INSIDE).match(buffer, at)
        if match is None:
            # twice as much each time: a long item is searched again from where its last bracket was
            more = file.read(max(_CHUNK, len(buffer) - begin))
            if not more:
                raise CorpusError(f"{path} is damaged: item {number} does not end, or the JSON array does not")
            buffer, at, begin = buffer[begin:] + more, at - begin, 0
            continue
        at = match.end()
        mark = buffer[at - 1]
        if mark != ord(","):
            depth += 1 if mark in b"[{" else -1
        if not depth or (depth == 1 and mark == ord(",")):
            text = buffer[begin : at - 1]
            # a comma may stand before the closing bracket, and an array may be empty
            if depth or text.strip():
                yield offset, number, text.strip()
            offset, begin, number = offset + at - begin, at, number + 1
    rest = buffer[at:]
    while rest:
        if rest.strip():
            raise CorpusError(f"{path} is damaged: text follows the end of its JSON array, behind item {number - 1}")
        rest = file.read(_CHUNK)


def _parsed(text: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """The object in a line or item, or what is wrong with it."""
    try:
        value = json.loads(text.decode())
    except UnicodeDecodeError:
        return None, NOT_UTF8
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} of it, " * (error.lineno > 1)
        return None, f"not valid JSON: {error.msg} ({line}column {error.colno})"
    except RecursionError:
        return None, "not valid JSON: nested too deep"
    except ValueError as error:
        # a number of more digits than Python wants to read
        return None, f"not valid JSON: {error}"
    return (value, None) if isinstance(value, dict) else (None, f"not an object but {kind_of(value)}")
