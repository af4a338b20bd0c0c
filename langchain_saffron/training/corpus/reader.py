"""A user's corpus of conversations, read as a stream and by ranges of records.

Nothing is held but one record or one batch at a time, and where every few-thousandth record of a JSON file
begins: a range is found without parsing, or even looking at, most of what comes before it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_saffron.errors import CorpusError, SettingsError
from langchain_saffron.training.corpus.json_files import JsonFile
from langchain_saffron.training.corpus.source import Source, reading
from langchain_saffron.training.corpus.tables import ParquetFile, SavedDataset

_KNOWN = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


@dataclass(frozen=True)
class Record:
    """One record of a corpus: what it holds, or what is wrong with it.

    Attributes:
        index: Its number over the whole corpus, from 0.
        where: Where it is, for messages. Lines count from 1, as in editors; rows and items of an array from 0,
            as in code.
        data: The record, or None if it is broken.
        problem: What is wrong with a broken record, or None.
    """

    index: int
    where: str
    data: dict[str, Any] | None
    problem: str | None


class Corpus:
    """Records of a file, of a directory of files, or of a dataset that `datasets` has saved.

    Attributes:
        path: What was opened.
    """

    def __init__(self, path: Path, sources: Sequence[Source], files: Sequence[Path]) -> None:
        self.path = path
        self._sources = sources
        self._files = files
        self._records = sum(source.records for source in sources)
        if not self._records:
            raise CorpusError(f"{path} is empty: it has no record at all")

    @classmethod
    def open(cls, path: str | Path, split: str | None = None) -> "Corpus":
        """Open a corpus and count its records, which reads JSON files through once, without parsing them.

        Args:
            path: A `.jsonl`, `.json` or `.parquet` file, JSON also with `.gz`; a directory by `save_to_disk`; or any
                other directory, whose files of these kinds are read in the order of their names.
            split: Of a saved `DatasetDict`; without it the only one, or "train".

        Raises:
            CorpusError: There is nothing to read, it is damaged, or the split is unknown.
            SettingsError: The train extra is not installed, and this kind of corpus needs it.
        """
        path = Path(path)
        with reading(path):
            if not path.exists():
                raise CorpusError(f"{path} does not exist")
        if path.is_dir() and _is_saved_dataset(path):
            dataset = SavedDataset(path, split)
            return cls(path, [dataset], dataset.files)
        if split is not None:
            raise CorpusError(f"{path} has no splits, so there is no {split!r}: only a saved DatasetDict has")
        if path.is_dir():
            with reading(path):
                files = sorted(file for file in path.iterdir() if _suffix(file) and not file.name.startswith("."))
            if not files:
                raise CorpusError(f"{path} has no file that can be read: known are {', '.join(_KNOWN)}")
        elif _suffix(path):
            files = [path]
        else:
            raise CorpusError(f"{path} is of no known kind: known are {', '.join(_KNOWN)}")
        return cls(
            path, [ParquetFile(file) if _suffix(file) == ".parquet" else JsonFile(file) for file in files], files
        )

    def __len__(self) -> int:
        """The number of records, broken ones too."""
        return self._records

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """The records from `start` up to but not including `stop`, in order.

        Raises:
            SettingsError: A bound is negative.
            CorpusError: A file is damaged, or has lost records since the corpus was opened.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise SettingsError(f"bounds must not be negative, got {start} and {stop}")
        return self._read(start, self._records if stop is None else min(stop, self._records))

    def _read(self, start: int, stop: int) -> Iterator[Record]:
        first = 0
        for source in self._sources:
            low, high = max(start - first, 0), min(stop - first, source.records)
            if low < high:
                count = 0
                for fields in source.read(low, high):
                    yield Record(first + low + count, *fields)
                    count += 1
                if count < high - low:
                    raise CorpusError(f"{source.path} has fewer records than when it was opened")
            first += source.records

    def fingerprint(self) -> str:
        """The SHA-256 of all files in order, with their names below `path`: a lone file may be renamed or moved.

        Raises:
            CorpusError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for file in self._files:
            with reading(file), file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256")
            digest.update(f"{file.relative_to(self.path).as_posix()}\0{content.hexdigest()}\n".encode(errors="replace"))
        return digest.hexdigest()


def _suffix(path: Path) -> str:
    """The known suffix of `path`, or nothing."""
    name = path.name.lower()
    return next((suffix for suffix in _KNOWN if name.endswith(suffix) and not path.is_dir()), "")


def _is_saved_dataset(path: Path) -> bool:
    return any((path / name).exists() for name in ("dataset_dict.json", "state.json")) or any(path.glob("*.arrow"))
