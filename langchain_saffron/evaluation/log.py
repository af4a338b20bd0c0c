"""The log of a run: a row an answer in Parquet files, apart from what judges say of it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from langchain_saffron.errors import SettingsError
from langchain_saffron.evaluation.judges import Exchange, Judge
from langchain_saffron.runtime.files import whole, write_json

_TEXT, _NUMBER, _WHOLE = pa.string(), pa.float64(), pa.int64()
SCHEMA = pa.schema(
    [
        ("key", _TEXT), ("method", _TEXT), ("attack", _TEXT), ("dataset", _TEXT), ("sample", _TEXT), ("kind", _TEXT),
        ("seed", _WHOLE), ("goal", _TEXT), ("request", _TEXT), ("prefill", _TEXT), ("answer", _TEXT),
        ("tokens", _WHOLE), ("finish_reason", _TEXT), ("reward", _NUMBER), ("logprob", _NUMBER), ("tflops", _NUMBER),
        ("policy_calls", _WHOLE), ("reward_calls", _WHOLE), ("unseen_fallbacks", _WHOLE), ("seconds", _NUMBER),
        ("query", _WHOLE), ("score", _NUMBER),
    ]
)  # fmt: skip
PART = 64
_NOTES = "notes"


class RunLog:
    """The answers of one run in a directory: `answers-00000.parquet`, …; a killed run goes on where it was.

    Attributes:
        path: The directory.
        settings: What the run is.
        notes: What a report says of it besides, such as when it was begun; older runs have none.
    """

    def __init__(self, path: Path, settings: dict[str, Any] | None = None, notes: dict[str, Any] | None = None) -> None:
        """Open a run, or begin one.

        Args:
            path: The directory.
            settings: What the run is; one that is there has to be the same. `None` takes any.
            notes: Of a run that begins; one that is there keeps its own.

        Raises:
            SettingsError: Another run is there, or none where one is to be read.
        """
        self.path = path
        record = path / "run.json"
        if record.exists():
            stored = json.loads(record.read_text(encoding="utf-8"))
            self.notes: dict[str, Any] = stored.pop(_NOTES, {})
            if settings is not None and stored != settings:
                odd = sorted(name for name in {*stored, *settings} if stored.get(name) != settings.get(name))
                raise SettingsError(f"{path} holds another run ({', '.join(odd)} differ): choose another directory")
            self.settings = stored
        elif settings is None:
            raise SettingsError(f"{path} holds no run: it has no run.json")
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_json(record, {**settings, _NOTES: notes} if notes else settings)
            self.settings, self.notes = settings, notes or {}

    def done(self) -> set[str]:
        """The keys of all answers that are there."""
        return {row["key"] for row in self.rows()}

    def scores(self) -> dict[str, float]:
        """By its key the score of every query of a search."""
        return {row["key"]: row["score"] for row in self.rows() if row["score"] is not None}

    def rows(self) -> Iterator[dict[str, Any]]:
        """All answers, in the order in which they were written."""
        for part in self._parts():
            yield from pq.read_table(part, schema=SCHEMA).to_pylist()

    def add(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Write rows as they come, a part at a time, and pass them on. What is written stays after a kill."""
        held: list[dict[str, Any]] = []
        try:
            for row in rows:
                held.append(row)
                if len(held) == PART:
                    self._write_part(held)
                    held = []
                yield row
        finally:
            if held:
                self._write_part(held)

    def judge(self, judge: Judge) -> list[dict[str, Any]]:
        """All answers with a judge's verdicts, which are kept in `verdicts-NAME.parquet`.

        Answers are judged with what was put into the model's mouth (`unsafe`) and without it (`unsafe_alone`).
        """
        rows = list(self.rows())
        whole = judge.judge([_exchange(row, row["prefill"]) for row in rows])
        given = [row for row in rows if row["prefill"]]
        alone = dict(
            zip(
                (row["key"] for row in given),
                judge.judge([_exchange(row) for row in given]),
                strict=True,
            )
        )
        judged = [
            {"key": row["key"], **asdict(verdict), "unsafe_alone": alone.get(row["key"], verdict).unsafe}
            for row, verdict in zip(rows, whole, strict=True)
        ]
        name = re.sub(r"[^\w.-]+", "-", judge.name)
        _write_table(pa.Table.from_pylist(judged), self.path / f"verdicts-{name}.parquet")
        return [{**row, **verdict} for row, verdict in zip(rows, judged, strict=True)]

    def _parts(self) -> Sequence[Path]:
        return sorted(self.path.glob("answers-*.parquet"))

    def _write_part(self, rows: list[dict[str, Any]]) -> None:
        path = self.path / f"answers-{len(self._parts()):05d}.parquet"
        _write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def _exchange(row: dict[str, Any], prefill: str = "") -> Exchange:
    # runs from before goals were logged have none
    return Exchange(row["request"], prefill + row["answer"], row["kind"], row["goal"] or row["request"])


def _write_table(table: pa.Table, path: Path) -> None:
    with whole(path) as partial:
        pq.write_table(table, partial)
