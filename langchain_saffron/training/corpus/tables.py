"""Parquet files and saved datasets, read by batches."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from langchain_saffron.errors import CorpusError
from langchain_saffron.extras import TRAINING
from langchain_saffron.training.corpus.source import NOT_UTF8, RawRecord, reading

_BUFFER = 1 << 20
_BATCH = 256


class ParquetFile:
    """A Parquet file, of which only the batches of a range are decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading_arrow(path):
            metadata = TRAINING.load("pyarrow.parquet").read_metadata(path)
        self._groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.records = sum(self._groups)

    def read(self, start: int, stop: int) -> Iterator[RawRecord]:
        """The rows in a range."""
        parquet = TRAINING.load("pyarrow.parquet")
        # neither option off, pyarrow reads all of a row group ahead, which may be all of the file
        with _reading_arrow(self.path), parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER) as file:
            row = 0
            for group, rows in enumerate(self._groups):
                if row + rows <= start or row >= stop:
                    row += rows
                    continue
                for batch in file.iter_batches(_BATCH, row_groups=[group]):
                    low, high = max(start - row, 0), min(stop - row, batch.num_rows)
                    if low < high:
                        for number, fields in enumerate(_rows(batch.slice(low, high - low)), row + low):
                            yield f"{self.path.name}, row {number}", *fields
                    row += batch.num_rows
                    if row >= stop:
                        return


class SavedDataset:
    """What `Dataset.save_to_disk` wrote, or one split of what `DatasetDict.save_to_disk` did."""

    def __init__(self, path: Path, split: str | None) -> None:
        self.path = path
        datasets = TRAINING.load("datasets")
        try:
            loaded = datasets.load_from_disk(str(path), keep_in_memory=False)
        except Exception as error:
            # there is no end to what it raises: KeyError, for one, if a field of its JSON is missing
            raise CorpusError(f"{path} is a damaged dataset: {error}") from error
        if isinstance(loaded, datasets.DatasetDict):
            names = list(loaded)
            if not names:
                raise CorpusError(f"{path} is empty: it has no split")
            if split is None:
                split = "train" if "train" in names else names[0]
                if split != "train" and len(names) > 1:
                    raise CorpusError(f"{path} has the splits {', '.join(names)}: choose one")
            if split not in names:
                raise CorpusError(f"{path} has no split {split!r}, only {', '.join(names)}")
            loaded, self.path = loaded[split], path / split
        elif split is not None and split != str(loaded.split):
            raise CorpusError(f"{path} has no splits, so there is no {split!r}: it is a single Dataset")
        # as Arrow holds it: neither tensors, in which a dataset may have been saved, nor decoded pictures
        self._dataset = loaded.with_format("arrow")
        self.records: int = loaded.num_rows
        self.files = [self.path / Path(file["filename"]).name for file in loaded.cache_files]

    def read(self, start: int, stop: int) -> Iterator[RawRecord]:
        """The rows in a range."""
        with _reading_arrow(self.path):
            for low in range(start, stop, _BATCH):
                for row, fields in enumerate(_rows(self._dataset[low : min(low + _BATCH, stop)]), low):
                    yield f"row {row}", *fields


def _reading_arrow(path: Path) -> AbstractContextManager[None]:
    # UnicodeDecodeError: a damaged name of a column
    return reading(path, TRAINING.load("pyarrow").ArrowException, UnicodeDecodeError)


def _rows(table: Any) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    """The rows of an Arrow table or batch; one that Python cannot hold leaves the others whole."""
    try:
        # without a look at its offsets first, a damaged table ends the process with a segmentation fault
        table.validate(full=True)
        rows = table.to_pylist()
    except Exception as error:
        # a text that is not UTF-8, a date out of range, a time zone that this machine does not know
        if table.num_rows > 1:
            for row in range(table.num_rows):
                yield from _rows(table.slice(row, 1))
        else:
            not_utf8 = isinstance(error, UnicodeDecodeError) or "Invalid UTF8" in str(error)
            yield None, NOT_UTF8 if not_utf8 else f"not readable: {error}"
        return
    yield from ((row, None) for row in rows)
