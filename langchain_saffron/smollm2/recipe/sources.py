"""The data files: read from where they lie, parted by hash, cleaned of what the evaluation asks."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# what the evaluation asks must not be trained on
EVALUATION = ("harmbench_standard", "xstest", "jbb_completions")
HARMFUL = ("harmfulqa", "catqa")
# of every ten prompts, one is kept for development
_HELD_OUT = 10


def read_rows(data: Path, name: str) -> list[dict[str, Any]]:
    """The records of a file `name.jsonl.gz` (or `.jsonl`) in the data's directory."""
    packed, plain = data / f"{name}.jsonl.gz", data / f"{name}.jsonl"
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    return [json.loads(line) for line in content.decode().split("\n") if line.strip()]


def normalise(prompt: str) -> str:
    """A prompt without what does not tell it from another: case, signs, blanks."""
    return " ".join(re.findall(r"[a-z0-9]+", prompt.lower()))


def draw(text: str) -> int:
    """A number that depends on the normalised text only, the same on every machine."""
    return int.from_bytes(hashlib.sha256(normalise(text).encode()).digest()[:8], "big")


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to development, not to training."""
    return draw(prompt) % _HELD_OUT == 0


def evaluation_prompts(data: Path) -> set[str]:
    """The normalised prompts of all evaluation files."""
    return {normalise(row["prompt"]) for name in EVALUATION for row in read_rows(data, name)}


def prompts_of(data: Path, names: Iterable[str], held_out: bool, without: set[str]) -> list[str]:
    """The distinct prompts of files, of one part, shuffled by their hashes.

    Args:
        data: The directory of the files.
        names: Of the files.
        held_out: Which part.
        without: Normalised prompts to leave out.
    """
    found: dict[str, str] = {}
    for name in names:
        for row in read_rows(data, name):
            key = normalise(row["prompt"])
            if key not in without and is_held_out(row["prompt"]) == held_out:
                found.setdefault(key, row["prompt"])
    return sorted(found.values(), key=draw)


def sentence_ends(text: str) -> list[int]:
    """The places in a text right behind a sentence or a line."""
    return [match.end() for match in re.finditer(r"[.!?:](?=\s)|\n(?=\S)", text)]
