"""From what a user writes on the command line to the cases of a run."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_saffron.errors import CorpusError, SettingsError
from langchain_saffron.evaluation.attacks import (
    Attack,
    HostileToolResult,
    ManyShot,
    NoAttack,
    PoisonedContext,
    Prefill,
    Replay,
    TemplateInjection,
)
from langchain_saffron.evaluation.datasets import read_dataset
from langchain_saffron.evaluation.methods import Method, make_method
from langchain_saffron.evaluation.records import read_records
from langchain_saffron.evaluation.runner import Case
from langchain_saffron.evaluation.sample import Sample

ATTACKS = "none, prefill-N, many-shot-N, template-injection, poisoned-context, hostile-tool-result, replay:FILE"


def parse_data(text: str, limit: int, generated: Mapping[str, Callable[[int], list[Sample]]]) -> list[Sample]:
    """One of the `generated` sets by its name, or `FORMAT:PATH`.

    Raises:
        SettingsError: Neither.
        CorpusError: The file cannot be read.
    """
    if text in generated:
        return generated[text](limit)
    name, colon, path = text.partition(":")
    if not colon:
        raise SettingsError(f"data: {text!r} is neither FORMAT:PATH nor one of {', '.join(generated)}")
    found = read_dataset(name, path)
    return [sample for sample, _ in zip(found, range(limit), strict=False)]


def parse_method(text: str, **common: Any) -> Method:
    """`NAME` or `NAME:WIDTH`.

    Raises:
        SettingsError: The name is not known, or the width is no number.
    """
    name, colon, width = text.partition(":")
    if colon and not width.isdecimal():
        raise SettingsError(f"method: {text!r}: the width has to be a whole number, as in saffron:16")
    return make_method(name, int(width) if colon else 1, **common)


def parse_attack(text: str, samples: Sequence[Sample], tokenizer: Any) -> Attack:
    """One of `ATTACKS`.

    Raises:
        SettingsError: It is not known.
        CorpusError: A file to replay cannot be read.
    """
    name, _, number = text.rpartition("-")
    if name == "prefill" and number.isdecimal():
        return Prefill(int(number))
    if name == "many-shot" and number.isdecimal():
        return ManyShot(int(number), tuple(sample for sample in samples if sample.target))
    if text.startswith("replay:"):
        return Replay(_recorded(Path(text.partition(":")[2])))
    if text == "template-injection":
        return TemplateInjection.on(tokenizer)
    known: dict[str, Attack] = {one.name: one for one in (NoAttack(), PoisonedContext(), HostileToolResult())}
    if text not in known:
        raise SettingsError(f"attack: {text!r} is not known: {ATTACKS}")
    return known[text]


def make_cases(
    samples: Sequence[Sample], attacks: Sequence[Attack], methods: Sequence[Method], seeds: int
) -> list[Case]:
    """Every method on every sample under every attack; methods that chance takes part in once a seed.

    What is not harmful is not attacked: it shows what safety costs.
    """
    return [
        Case(method, attack, sample, seed)
        for method in methods
        for attack in attacks
        for sample in samples
        if sample.kind == "harmful" or attack.name == attacks[0].name
        for seed in range(seeds if method.sampled else 1)
    ]


def _recorded(path: Path) -> dict[str, str]:
    """Prompts by the `id` or the `goal` of the record."""
    found: dict[str, str] = {}
    for where, record in read_records(path):
        prompt = record.get("prompt") if isinstance(record, dict) else None
        names = [record[key] for key in ("id", "goal") if key in record] if isinstance(record, dict) else []
        if not isinstance(prompt, str) or not names:
            raise CorpusError(
                f"{where}: an object with a prompt, and an id or a goal, is expected: {json.dumps(record)}"
            )
        found.update((str(name), prompt) for name in names)
    return found
