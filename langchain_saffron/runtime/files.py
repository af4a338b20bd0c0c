"""Paths that users name, and writing such that a reader never sees half a file and nothing is lost on a full disk."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from langchain_saffron.errors import ModelNotFoundError, SaffronError, StorageError

_SUFFIX = ".partial"
# what file systems take: bytes of a name, and of a path
_LONGEST_NAME, _LONGEST_PATH = 255, 4095


def local_path(source: object) -> Path:
    """Where a model would lie if its name is that of a file or directory; `~` is the user's home, if that is known.

    Args:
        source: A name: a path or a hub id.

    Raises:
        ModelNotFoundError: It is too long for the name of anything.
    """
    path = Path(os.path.expanduser(str(source)))
    lengths = [len(os.fsencode(part)) for part in (str(path), *path.parts)]
    if lengths[0] > _LONGEST_PATH or max(lengths[1:], default=0) > _LONGEST_NAME:
        raise ModelNotFoundError(
            f"{str(source)[:40]!r} and so on is too long for the name of a model, or of a directory"
        )
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, for a file or a directory, that takes its place if all went well.

    Raises:
        StorageError: It could not be written; what was at `path` before is still there.
    """
    with _whole(path, path.with_name(path.name + _SUFFIX)) as partial:
        yield partial


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Within this context, what cannot be written to `path` is a `StorageError`."""
    try:
        yield
    # safetensors has an error of its own for a full disk
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{path} could not be written ({reason}); what was there before is untouched") from error


@contextmanager
def _whole(path: Path, partial: Path) -> Iterator[Path]:
    try:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            yield partial
            _flush(partial)
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(partial, path)
    except BaseException:
        _discard(partial)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write `content`, the same bytes for the same content.

    Raises:
        StorageError: It could not be written.
    """
    # several processes may write the same at once
    with _whole(path, path.with_name(f"{path.name}.{secrets.token_hex(4)}{_SUFFIX}")) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        # names of files may hold lone surrogates, which Python and JSON escape alike
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path, of_format: int, error: type[SaffronError]) -> dict[str, Any] | None:
    """What `write_json` wrote with a `format`; `None` where there is no such file.

    Args:
        path: The file.
        of_format: The number that it has to hold under `format`.
        error: What a damaged file is, and one of another format.

    Raises:
        SaffronError: An `error`.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as invalid:
        raise error(f"{path} is damaged: it is not valid JSON: {invalid}") from invalid
    if not isinstance(content, dict) or content.get("format") != of_format:
        raise error(f"{path} is not of format {of_format}: update langchain-saffron")
    return content


def _flush(path: Path) -> None:
    """Bring it to the disk before it gets its name: a crash must not leave an empty file under it."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _discard(path: Path) -> None:
    """Remove it if that can be done: there is an error to tell already."""
    with suppress(OSError):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
