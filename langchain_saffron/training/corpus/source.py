"""What the kinds of corpus files share."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from langchain_saffron.errors import CorpusError

NOT_UTF8 = "not valid UTF-8"

# where it is, the record, what is wrong with it
RawRecord = tuple[str, dict[str, Any] | None, str | None]


class Source(Protocol):
    """A part of a corpus that knows how many records it has."""

    path: Path
    records: int

    def read(self, start: int, stop: int) -> Iterator[RawRecord]:
        """The records in a range that is within the file and not empty."""


@contextmanager
def reading(path: Path, *damages: type[Exception]) -> Iterator[None]:
    """Turn what reading a damaged file may raise into a `CorpusError` that names it."""
    known: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, *damages)
    try:
        yield
    except known as error:
        raise CorpusError(f"{path} cannot be read, or is damaged: {error}") from error
