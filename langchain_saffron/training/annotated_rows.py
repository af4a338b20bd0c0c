"""Rows of annotated data: our shards, or any table of token ids and token-level rewards."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from langchain_saffron.errors import CorpusError
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.shards import CANDIDATES, file_hash

_IDS = ("token_ids", "input_ids", "tokens", "ids")
_REWARDS = ("rewards", "reward", "scores", "labels")

# what is said of a table that is something else
SHAPE = (
    "annotated rows have token_ids (or input_ids) and rewards: one for each token, null where there is none, or one "
    "for each of the last tokens; `saffron annotate` writes them from conversations"
)


def read_shards(directory: Path, manifest: Mapping[str, Any]) -> Iterator[Sample]:
    """Rows that `saffron annotate` wrote.

    Args:
        directory: Of the shards.
        manifest: What it says of them.

    Raises:
        CorpusError: A shard is damaged or missing, or not all are written yet.
    """
    if not manifest["complete"]:
        raise CorpusError(f"the annotation in {directory} is not finished: run the same saffron annotate again")
    for shard in manifest["shards"]:
        yield from _shard(directory / shard["file"], shard["sha256"])


def read_table(path: Path) -> Iterator[Sample]:
    """Rows of a table that somebody else wrote.

    Args:
        path: A file or directory.

    Raises:
        CorpusError: A row cannot be read, or has no known shape.
    """
    for record in Corpus.open(path).read():
        if record.data is None:
            raise CorpusError(f"{record.where}: {record.problem}")
        try:
            yield _from_mapping(record.index, record.data)
        except (TypeError, ValueError) as error:
            raise CorpusError(f"{record.where}: {error}; {SHAPE}") from error


def _shard(path: Path, sha256: str) -> Iterator[Sample]:
    try:
        # Parquet itself does not notice every wrong byte
        if file_hash(path) != sha256:
            raise ValueError("it is not what the manifest says")
        table = pq.read_table(path)
        names = ["record", "token_ids", "response_start", "rewards"]
        beside = [field.name for field in CANDIDATES if field.name in table.column_names]
        columns = [table.column(name).to_pylist() for name in [*names, *beside]]
        for record, ids, start, rewards, *others in zip(*columns, strict=True):
            sample = Sample.of_row(record, ids, start, rewards)
            yield sample.with_candidates(start, *others) if others else sample
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CorpusError(f"{path} is damaged ({error}): delete it and run the same saffron annotate again") from error


def _from_mapping(index: int, data: Mapping[str, Any]) -> Sample:
    rewards = next((data[name] for name in _REWARDS if data.get(name) is not None), None)
    ids = next((data[name] for name in _IDS if data.get(name) is not None), None)
    if ids is None and data.get("response_ids") is not None:
        ids = [*(data.get("prompt_ids") or []), *data["response_ids"]]
    if ids is None or rewards is None:
        raise ValueError(f"has the fields {', '.join(map(str, data))}")
    start = data.get("response_start")
    return Sample.of_row(index, ids, len(ids) - len(rewards) if start is None else start, rewards)
