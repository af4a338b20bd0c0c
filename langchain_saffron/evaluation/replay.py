"""Replay of prompts that another attack (GCG, AutoDAN, PAIR) has found, such as JailbreakBench's artefacts."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_saffron.errors import CorpusError, SettingsError
from langchain_saffron.evaluation.attack import Attack, Attacked
from langchain_saffron.evaluation.records import read_records
from langchain_saffron.evaluation.sample import Sample

# fields that say which behaviour a prompt is for
_KEYS = ("id", "goal", "behavior", "behaviour")


@dataclass(frozen=True)
class Replay(Attack):
    """Prompts that another attack has found, read from a file."""

    prompts: dict[str, str]
    name: str = "replay"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", {_plain(key): text for key, text in self.prompts.items()})

    def apply(self, sample: Sample) -> Attacked:
        """The recorded prompt, found by the sample's id, its prompt or its behaviour."""
        own = sample.id.removeprefix(f"{sample.dataset}-")
        names = (sample.id, own, sample.request, sample.facts.get("behaviour") or "")
        text = next((self.prompts[key] for key in map(_plain, names) if key in self.prompts), None)
        if text is None:
            raise SettingsError(f"{self.name}: no prompt was recorded for {sample.id}")
        return Attacked(sample.asking(text).messages, tools=sample.tools)


def read_artefacts(path: Path) -> dict[str, str]:
    """Prompts by what they are for.

    Args:
        path: Records (CSV, JSON, JSONL or Parquet, packed by gzip or not) with a `prompt`, and an `id`, a `goal` or a
            `behavior`; or one JSON object with such records under `jailbreaks`, as JailbreakBench hands them out.
            Where an attack has found no prompt (`null`), the goal is asked as it is. Of several, the first is taken.

    Raises:
        CorpusError: The file cannot be read, or a record lacks a field.
    """
    prompts: dict[str, str] = {}
    for where, record in _records(path):
        known = record if isinstance(record, dict) else {}
        names = [str(known[key]) for key in _KEYS if known.get(key) not in (None, "")]
        prompt = known.get("prompt")
        if prompt is None and "prompt" in known:
            prompt = known.get("goal")
        if not isinstance(prompt, str) or not names:
            raise CorpusError(f"{where}: an object with a prompt, and an id, a goal or a behavior, is expected")
        for name in names:
            prompts.setdefault(name, prompt)
    if not prompts:
        raise CorpusError(f"{path} holds no prompt")
    return prompts


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    whole = _one_object(path)
    if whole is None or "jailbreaks" not in whole:
        yield from read_records(path)
        return
    if not isinstance(whole["jailbreaks"], list):
        raise CorpusError(f"{path}: its jailbreaks are no list")
    for number, record in enumerate(whole["jailbreaks"], 1):
        yield f"{path}, jailbreak {number}", record


def _one_object(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file is, or nothing where it holds something else."""
    name = path.name.lower()
    if not name.endswith((".json", ".json.gz")):
        return None
    try:
        data = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
        read = json.loads(data.decode("utf-8-sig"))
    # what is wrong with it is told by who reads records
    except (OSError, EOFError, ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _plain(text: str) -> str:
    """A name without the differences that copies of a benchmark have."""
    return " ".join(text.lower().split()).rstrip(".?!")
