"""The manifest of an annotation: what a run is, so that only the same one goes on, and what came of it."""

from pathlib import Path
from typing import Any

from langchain_saffron.errors import CorpusError
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.vocabulary import vocabulary_hash
from langchain_saffron.runtime.files import write_json
from langchain_saffron.templates.guard_prompt import GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.settings import AnnotateSettings
from langchain_saffron.training.shards import FORMAT, MANIFEST, file_hash, read_counts, read_manifest, shard_name

# problems that the manifest names one by one; the rest is counted
_NAMED_PROBLEMS = 100
_COUNTS = ("records", "rows", "rewards", "safe", "too_long")
# counts that are there where they are not 0: prefixes without a reward, prefixes that were scored with a character
# completed, answers that the guard gave no reward for, and rewards of candidates and of what follows them
OPTIONAL_COUNTS = ("unknown", "completed", "skipped", "candidates", "after")


def corpus_record(corpus: Corpus, records: int) -> dict[str, Any]:
    """What says which corpus it is, and how much of it."""
    return {"name": corpus.path.name, "sha256": corpus.fingerprint(), "records": records}


def settings_record(
    corpus: dict[str, Any],
    prm: ProcessRewardModel,
    settings: AnnotateSettings,
    template: RewardTemplate,
    rollouts: dict[str, Any] | None = None,
    candidates: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All that the shards depend on."""
    model = prm.decoder.model if prm.decoder else None
    return {
        "corpus": corpus,
        "prm": {
            "name": prm.name,
            "fingerprint": None if model is None else fingerprint(model),
            "dtype": None if model is None else str(model.dtype).removeprefix("torch."),
            "prompt": None if prm.prompt is None else _prompt_record(prm.prompt),
            "source": prm.source,
        },
        "template": template.model_dump(),
        "vocabulary_hash": vocabulary_hash(prm.tokenizer),
        "max_tokens": settings.max_tokens,
        "turns": settings.turns,
        "shard_size": settings.shard_size,
        "batch_size": settings.batch_size,
        # `None` also in manifests from before there were these fields
        "rollouts": rollouts,
        "candidates": candidates,
    }


def _prompt_record(prompt: GuardPrompt) -> dict[str, Any]:
    record = prompt.model_dump()
    # as runs recorded it before there was this field, so that they can go on
    return record if prompt.first_token else {key: value for key, value in record.items() if key != "first_token"}


def start_run(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a new run, or of the one that is continued."""
    if out.exists() and not out.is_dir():
        raise CorpusError(f"{out} is a file: --out has to be a directory")
    # before the manifest is looked for: another part may write it, and then shards, in between
    occupied = out.is_dir() and any(out.glob("*.parquet"))
    known = read_manifest(out)
    if known is not None:
        differing = [key for key, value in record.items() if known["settings"].get(key) != value]
        if differing:
            raise CorpusError(
                f"{out} holds annotations of another run (other {', '.join(differing)}): choose another directory, or "
                "delete it"
            )
        return known
    if occupied:
        raise CorpusError(f"{out} holds Parquet files of something else: choose another directory")
    manifest = {"format": FORMAT, "complete": False, "settings": record}
    write_json(out / MANIFEST, manifest)
    return manifest


def finish_run(out: Path, manifest: dict[str, Any], shards: int) -> dict[str, Any]:
    """Write the counts of all shards into the manifest, once all are there."""
    totals = dict.fromkeys(_COUNTS, 0)
    broken: list[str] = []
    files = []
    for index in range(shards):
        counts = read_counts(out / shard_name(index))
        if counts is None:
            return manifest
        for key in (*_COUNTS, *OPTIONAL_COUNTS):
            if count := counts.get(key):
                totals[key] = totals.get(key, 0) + count
        broken += counts["broken"]
        files.append({"file": shard_name(index), "sha256": file_hash(out / shard_name(index)), "rows": counts["rows"]})
    if not totals["rows"]:
        reasons = f"{len(broken)} broken, {totals['too_long']} with a prompt of max_tokens or more"
        raise CorpusError(f"none of the {totals['records']} records could be annotated: {reasons}")
    safe = totals.pop("safe") / totals["rewards"]
    manifest = {
        **manifest,
        "complete": True,
        "counts": {**totals, "broken": len(broken), "safe_share": round(safe, 6)},
        "broken": broken[:_NAMED_PROBLEMS],
        "shards": files,
    }
    write_json(out / MANIFEST, manifest)
    return manifest
