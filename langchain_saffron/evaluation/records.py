"""Records of a benchmark's file, with where each of them stands."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from langchain_saffron.errors import CorpusError
from langchain_saffron.training.corpus import Corpus


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Every record of a CSV, JSON, JSONL or Parquet file; CSV and JSON ones may be packed by gzip.

    Yields:
        Where it stands, for messages, and what it is: an object for all but JSONL, whose lines may hold any value.

    Raises:
        CorpusError: The file cannot be read, or a record is damaged; the message names its line.
    """
    kind = path.name.lower().removesuffix(".gz")
    if kind.endswith(".csv"):
        yield from _read_csv(path)
    elif kind.endswith(".jsonl"):
        yield from _read_lines(path)
    else:
        for record in Corpus.open(path).read():
            if record.data is None:
                raise CorpusError(f"{record.where}: {record.problem}")
            yield record.where, record.data


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with _opened(path) as file:
        rows = csv.DictReader(file, strict=True)
        try:
            columns = rows.fieldnames or []
            if not columns:
                raise CorpusError(f"{path} is empty: a CSV file starts with the names of its columns")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise CorpusError(f"{where}: {len(columns)} columns expected ({', '.join(columns)})")
                yield where, row
        except csv.Error as error:
            raise CorpusError(f"{path}, line {rows.line_num}: {error}") from error


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    yield where, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise CorpusError(f"{where}: not valid JSON: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The file as text, its lines' ends as they are; what is wrong with it is a `CorpusError`."""
    try:
        with (
            gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as binary,
            io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file,
        ):
            yield file
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from error
