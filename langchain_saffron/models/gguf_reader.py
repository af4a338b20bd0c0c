"""The header of a GGUF file, read within bounds: what is in it, and whether all of it is there.

The libraries that read GGUF believe the counts and lengths that a file states. This reader believes none: whatever a
file says, it takes no longer and no more memory than a header of a real model does, and nothing in it is executed.
"""

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.extras import GGUF
from langchain_saffron.models.gguf_header import GgufHeader, GgufTensor, count_of

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# how struct reads the scalar types of the format's metadata
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# far more than any model has; the largest vocabularies come with a million items in all
_MOST_ENTRIES, _MOST_TENSORS, _MOST_ITEMS, _MOST_DIMENSIONS = 2**14, 2**17, 2**22, 4
_MOST_BYTES_OF_TEXT, _MOST_BYTES = 2**24, 2**28
_SMALL_ARRAY = 4096


def read_header(path: Path, name: str) -> GgufHeader:
    """Read a file's header, and see that the file holds all that its header lists.

    Args:
        path: The file.
        name: What error messages call the model.

    Raises:
        ModelLoadError: It is no GGUF file, damaged, cut short, or holds something else than a whole model.
        ExtraRequiredError: The package `gguf` is missing.
    """
    what = f"the {name} {str(path)!r}"
    try:
        with path.open("rb") as file:
            header = _Reader(file, path, what).header()
    except OSError as error:
        raise ModelLoadError(f"{what} cannot be read: {error.strerror or error}") from error
    _check(header, what)
    return header


class _Reader:
    """Reads a header from front to back; what does not fit into the file is never asked for."""

    def __init__(self, file: BinaryIO, path: Path, what: str) -> None:
        self._file, self._path, self._what = file, path, what
        self._size = os.fstat(file.fileno()).st_size
        self._items = self._read = 0

    def header(self) -> GgufHeader:
        self._read = 4
        magic = self._file.read(4)
        if magic != MAGIC:
            raise ModelLoadError(
                f"{self._what} is a file, but no GGUF file (it begins with {magic!r}): pass a GGUF file, or the "
                "directory of a checkpoint"
            )
        version, tensors, entries = self._numbers("IQQ")
        if version not in _VERSIONS:
            raise ModelLoadError(
                f"{self._what} is a GGUF file of version {version}, and versions 2 and 3 in little-endian order are "
                "read: convert the model again with a current llama.cpp"
            )
        self._limit("entries", entries, _MOST_ENTRIES)
        self._limit("tensors", tensors, _MOST_TENSORS)
        header = GgufHeader(self._path, version, size=self._size)
        for _ in range(entries):
            begin = self._file.tell()
            key = self._text()
            if key in header.values:
                raise _damaged(self._what, f"{key!r} is there twice")
            header.values[key] = self._value(self._numbers("I")[0])
            header.entries[key] = begin, self._file.tell()
        begin = self._file.tell()
        sizes = {int(kind): size for kind, size in GGUF.load("gguf.constants").GGML_QUANT_SIZES.items()}
        for _ in range(tensors):
            header.tensors.append(self._tensor(sizes))
        header.table = begin, self._file.tell()
        alignment = header.values.get("general.alignment", 32)
        # llama.cpp writes 32; a power of two above a page would only be padding
        if not isinstance(alignment, int) or not 8 <= alignment <= 2**16 or alignment & (alignment - 1):
            raise _damaged(self._what, f"its alignment is {alignment!r}")
        header.start = -(-header.table[1] // alignment) * alignment
        return header

    def _tensor(self, sizes: dict[int, tuple[int, int]]) -> GgufTensor:
        name = self._text()
        (count,) = self._numbers("I")
        self._limit(f"dimensions of {name!r}", count, _MOST_DIMENSIONS)
        *shape, kind, offset = self._numbers(f"{count}QIQ")
        if kind not in sizes:
            raise ModelLoadError(
                f"{self._what}: the tensor {name!r} is of ggml type {kind}, which this version of the package gguf "
                "does not know: update it, or take another quantisation"
            )
        block, block_bytes = sizes[kind]
        if not count or not all(shape) or shape[0] % block:
            raise _damaged(self._what, f"the tensor {name!r} has the shape {tuple(shape)}")
        size = math.prod(shape) // block * block_bytes
        return GgufTensor(name, tuple(reversed(shape)), kind, size, offset + size)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            return self._numbers(_SCALARS[kind])[0]
        if kind != _ARRAY:
            raise _damaged(self._what, f"a value is of type {kind}")
        kind, count = self._numbers("IQ")
        self._items += count
        self._limit("items in lists", self._items, _MOST_ITEMS)
        if kind not in _SCALARS and kind != _STRING:
            raise _damaged(self._what, f"a list is of type {kind}")
        if kind == _STRING:
            values = [text for text in (self._text() for _ in range(count)) if count <= _SMALL_ARRAY]
        else:
            values = list(self._numbers(f"{count}{_SCALARS[kind]}"))
        return values if count <= _SMALL_ARRAY else count

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        self._limit("bytes in a text", length, _MOST_BYTES_OF_TEXT)
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(self._what, f"a text is no UTF-8 ({error.reason})") from error

    def _numbers(self, form: str) -> tuple[Any, ...]:
        layout = "<" + form
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, count: int) -> bytes:
        self._read += count
        self._limit("bytes of header", self._read, _MOST_BYTES)
        data = self._file.read(count) if self._read <= self._size else b""
        if len(data) < count:
            raise _damaged(self._what, f"it ends within its header, after {self._size:,} bytes")
        return data

    def _limit(self, what: str, count: int, most: int) -> None:
        if count > most:
            raise _damaged(self._what, f"it states {count:,} {what}, and {most:,} is the most that is read")


def _check(header: GgufHeader, what: str) -> None:
    """Refuse what is no whole model, and numbers that no model has."""
    values = header.values
    if (parts := count_of(values.get("split.count"))) > 1:
        raise ModelLoadError(
            f"{what} is one of the {parts} parts that a model was split into: join them with llama.cpp's "
            "llama-gguf-split --merge, and pass the whole"
        )
    if not isinstance(values.get("general.architecture"), str):
        raise _damaged(what, "it names no architecture")
    kind = values.get("general.type", "model")
    if kind != "model":
        raise ModelLoadError(f"{what} holds no model but {kind!r} (general.type): pass the file of the model itself")
    missing = header.start + max((tensor.end for tensor in header.tensors), default=0) - header.size
    # tensors that share their bytes would take a multiple of the file's size in memory
    overlap = header.start + sum(tensor.bytes for tensor in header.tensors) - header.size
    if missing > 0 or overlap > 0:
        raise _damaged(what, f"{max(missing, overlap):,} bytes of {header.size + max(missing, overlap):,} are missing")
    if len({tensor.name for tensor in header.tensors}) < len(header.tensors):
        raise _damaged(what, "a tensor is there twice")
    _check_numbers(header, what)


def _check_numbers(header: GgufHeader, what: str) -> None:
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    layers = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    own = {
        key.removeprefix(header.architecture + "."): value
        for key, value in header.values.items()
        if key.startswith(header.architecture + ".")
    }
    if layers and count_of(own.get("block_count")) != len(layers):
        raise _damaged(what, f"it states {own.get('block_count')} layers and holds {len(layers)}")
    embeddings = shapes.get("token_embd.weight")
    if embeddings and len(embeddings) == 2 and own.get("embedding_length", embeddings[1]) != embeddings[1]:
        raise _damaged(what, f"it states a width of {own['embedding_length']}, and its embeddings have {embeddings[1]}")
    rows = header.vocabulary or (embeddings[0] if embeddings else 0)
    for key, value in header.values.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and rows and not 0 <= count_of(value) < rows:
            raise _damaged(what, f"{key} is {value}, and there are {rows:,} tokens")
        if isinstance(value, float) and not math.isfinite(value):
            raise _damaged(what, f"{key} is {value}")
    if count_of(own.get("expert_count")) > 2**14:
        raise _damaged(what, f"it states {own['expert_count']} experts")


def _damaged(what: str, how: str) -> ModelLoadError:
    """The error about a file that is not what it says."""
    return ModelLoadError(f"{what} is damaged or cut short: {how} (download it again)")
