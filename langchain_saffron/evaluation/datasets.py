"""Datasets as `Sample` records: benchmarks from local files, and sets that are made.

No benchmark is shipped, since their licences forbid it: download a file, then name it as `NAME:PATH`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from langchain_saffron.errors import CorpusError, SettingsError
from langchain_saffron.evaluation.mappers import MAPPERS, Mapper, RecordError
from langchain_saffron.evaluation.records import read_records
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.runtime.registry import Registry

FORMATS: Registry[Mapper] = Registry("format", MAPPERS)


@dataclass(frozen=True)
class SampleSet:
    """A dataset that is made, not read from a file, and how it is evaluated where nobody says otherwise.

    Attributes:
        make: From how many samples are wanted to these.
        judge: Who judges.
        attacks: Under which attacks.
        max_tokens: The longest answer.
        top_p: The nucleus of every method.
        policy: From device and dtype to the policy that the set is for, in place of the embedded one.
        model: Or the name of the embedded models that it is for, also beside other data.
    """

    make: Callable[[int], list[Sample]]
    judge: str = "keyword"
    attacks: tuple[str, ...] = ("none",)
    max_tokens: int = 64
    top_p: float = 0.8
    policy: Callable[[str, str], Any] | None = None
    model: str | None = None


SETS: Registry[SampleSet] = Registry("data", {})


def register_format(name: str, mapper: Mapper) -> None:
    """Add a benchmark's file format, which `NAME:PATH` then means in every evaluation.

    Args:
        name: Of the format.
        mapper: From a record to the fields of `Sample` but `id` and `dataset`, or `None` for a record that is not
            asked for. What is wrong with a record it raises as a `RecordError`.
    """
    FORMATS[name] = mapper


def register_dataset(name: str, made: SampleSet) -> None:
    """Add a set of samples, which `NAME` then means in every evaluation."""
    SETS[name] = made


def parse_data(text: str, limit: int) -> list[Sample]:
    """One of `SETS` by its name, or `FORMAT:PATH`.

    Raises:
        SettingsError: Neither.
        CorpusError: The file cannot be read.
    """
    if text in SETS:
        return SETS[text].make(limit)
    name, colon, path = text.partition(":")
    if not colon:
        raise SettingsError(f"data: {text!r} is neither FORMAT:PATH nor one of {', '.join(SETS)}")
    return list(islice(read_dataset(name, path), limit))


def read_dataset(name: str, path: str | Path) -> Iterator[Sample]:
    """The samples of a benchmark's file; a prompt that stands there several times is asked once.

    Args:
        name: One of `FORMATS`.
        path: A CSV, JSON, JSONL or Parquet file, as the benchmark is handed out; `.jsonl.gz` and `.csv.gz` as well.

    Raises:
        SettingsError: The format is not known.
        CorpusError: The file cannot be read, or a record is not of this format; the message names its line.
    """
    mapper = FORMATS[name]
    path = Path(path)
    seen = set()
    for number, (where, record) in enumerate(read_records(path), 1):
        try:
            mapped = mapper(record)
        except RecordError as error:
            raise CorpusError(f"{where}: {error}") from error
        if mapped is not None and (asked := json.dumps([mapped["kind"], mapped["messages"]])) not in seen:
            seen.add(asked)
            own = record.get("id") if isinstance(record, dict) else None
            yield Sample(id=f"{name}-{number if own is None else own}", dataset=name, **mapped)
    if not seen:
        raise CorpusError(f"{path} holds no sample of the format {name}")
