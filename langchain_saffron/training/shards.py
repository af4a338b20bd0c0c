"""Annotated data on disk: Parquet shards with one reward a response token, and a manifest.

A row holds `token_ids` (the conversation in the MRM's template, then the response by id), the response's span
(`response_start`, `response_end`) and `rewards`, one for each token of the span: `R` of everything up to and including
that token. That is the paper's Safety4M: token-level rewards. Where candidates were scored, `candidates` holds for each
token of the span the others that could have stood there, and `candidate_rewards` their rewards, NaN for unknown.
`after` goes one token further: place in the span, the token there, the one behind it; `after_rewards` are those of the
latter.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from langchain_saffron.errors import CorpusError
from langchain_saffron.runtime.files import read_json, whole

FORMAT = 1
MANIFEST = "manifest.json"
_COUNTS = b"saffron"

SCHEMA = pa.schema(
    [
        pa.field("record", pa.int64(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("response_start", pa.int32(), nullable=False),
        pa.field("response_end", pa.int32(), nullable=False),
        pa.field("rewards", pa.list_(pa.float32()), nullable=False),
    ]
)


CANDIDATES = (
    pa.field("candidates", pa.list_(pa.list_(pa.int32())), nullable=False),
    pa.field("candidate_rewards", pa.list_(pa.list_(pa.float32())), nullable=False),
    pa.field("after", pa.list_(pa.list_(pa.int32())), nullable=False),
    pa.field("after_rewards", pa.list_(pa.float32()), nullable=False),
)


@dataclass(frozen=True)
class Row:
    """One annotated response.

    Attributes:
        record: The number of the corpus record that it comes from.
        prompt: The MRM's prompt.
        response: The response's ids.
        rewards: The PRM's reward after each of them.
        candidates: For each of them other tokens in its place; `None` where none were asked for.
        candidate_rewards: The PRM's rewards of those.
        after: (place in the response, the token there, the one behind it).
        after_rewards: The PRM's reward behind each.
    """

    record: int
    prompt: Sequence[int]
    response: Sequence[int]
    rewards: Sequence[float]
    candidates: Sequence[Sequence[int]] | None = None
    candidate_rewards: Sequence[Sequence[float]] | None = None
    after: Sequence[Sequence[int]] = ()
    after_rewards: Sequence[float] = ()


def shard_name(index: int) -> str:
    """The file name of a shard."""
    return f"shard-{index:05d}.parquet"


def write_shard(path: Path, rows: Sequence[Row], counts: dict[str, Any]) -> None:
    """Write a shard in one go; the same rows give the same bytes.

    Raises:
        StorageError: It could not be written.
    """
    # names of files may hold lone surrogates, which Python and JSON escape alike
    recorded = json.dumps(counts, ensure_ascii=False).encode(errors="backslashreplace")
    columns: dict[str, list[Any]] = {
        "record": [row.record for row in rows],
        "token_ids": [[*row.prompt, *row.response] for row in rows],
        "response_start": [len(row.prompt) for row in rows],
        "response_end": [len(row.prompt) + len(row.response) for row in rows],
        "rewards": [list(row.rewards) for row in rows],
    }
    schema = SCHEMA
    if any(row.candidates is not None for row in rows):
        schema = pa.schema([*SCHEMA, *CANDIDATES])
        columns["candidates"] = [row.candidates for row in rows]
        columns["candidate_rewards"] = [row.candidate_rewards for row in rows]
        columns["after"] = [row.after for row in rows]
        columns["after_rewards"] = [row.after_rewards for row in rows]
    table = pa.table(columns, schema=schema.with_metadata({_COUNTS: recorded}))
    with whole(path) as partial:
        pq.write_table(table, partial)


def read_counts(path: Path) -> dict[str, Any] | None:
    """What `write_shard` was told about a shard; `None` if the file is not there.

    Raises:
        CorpusError: The file is damaged, or something else.
    """
    if not path.exists():
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
        counts: dict[str, Any] = json.loads(metadata[_COUNTS])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CorpusError(f"{path} is damaged or no shard of annotations ({error}): delete it and run again") from error
    return counts


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a directory of shards; `None` if there is none.

    Raises:
        CorpusError: It is damaged, or of another format.
    """
    return read_json(directory / MANIFEST, FORMAT, CorpusError)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
