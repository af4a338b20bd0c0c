"""The MRM, by the package's own commands: `saffron annotate` with the guard, then `saffron train` from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from langchain_saffron.kitchen.recipe.mrm import run_saffron, train_mrm
from langchain_saffron.models.mrm_files import ADAPTER_WEIGHTS
from langchain_saffron.smollm2.recipe import corpus, sources, wordings
from langchain_saffron.smollm2.recipe.sampling import Row, read_jsonl
from langchain_saffron.training.shards import file_hash

# records of HH-RLHF, with two transcripts each, and benign answers of the file, which bring rarer words
CONVERSATIONS, CONVERSATIONS_HELD_OUT, WRITTEN = 1_000, 30, 640
# what a record shows is 21 tokens of system prompt, the question, and the answer
ANNOTATE = ("--max-tokens", "144", "--shard-size", "200", "--batch-size", "32")
TRAIN = (
    "--epochs", "1", "--batch-size", "12", "--learning-rate", "2e-3", "--rank", "8", "--alpha", "16", "--layers", "10",
    "--target-modules", "q_proj,v_proj,o_proj,down_proj", "--checkpoint-every", "30",
)  # fmt: skip


def records(data: Path, work: Path, held_out: bool) -> Iterator[dict[str, Any]]:
    """Conversations to annotate: each turn of HH-RLHF, and answers of the model's own of every kind."""
    without = sources.evaluation_prompts(data)
    transcripts = sources.read_rows(data, "hh_harmless")
    transcripts = sorted(transcripts, key=lambda row: sources.draw(row["chosen"]))
    kept = transcripts[:CONVERSATIONS_HELD_OUT]
    for row in kept if held_out else transcripts[len(kept) :][:CONVERSATIONS]:
        asked = sources.normalise(row["chosen"].partition("\n\nAssistant:")[0].partition("Human:")[2])
        if asked not in without:
            yield {"chosen": row["chosen"], "rejected": row["rejected"]}
    written = [row for row in sources.read_rows(data, "benign") if sources.is_held_out(row["prompt"]) == held_out]
    for row in sorted(written, key=lambda row: sources.draw(row["prompt"]))[:WRITTEN]:
        if len(row["prompt"]) <= corpus.LONGEST_LEARNT and row["response"].strip():
            yield {"prompt": row["prompt"], "response": row["response"]}
    for prompt, answer in own_answers(work, held_out):
        yield {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def own_answers(work: Path, held_out: bool) -> Iterator[tuple[str, str]]:
    """Harmful answers, turned and not, refusals, and benign ones; those of the aligned policy as well."""
    for number, row in enumerate(_part(work / "samples/harmful.jsonl", held_out)):
        rng = Random(f"mrm/{row['prompt']}")
        # a long answer, the same cut short by a turn, or a refusal
        answers = (row["opening"] + row["answer"], corpus.turned(row, rng)[0], wordings.refusal(rng))
        yield from ((row["prompt"], answer) for place, answer in enumerate(answers) if place != number % 3)
    for row in _part(work / "samples/benign.jsonl", held_out)[::2]:
        rng = Random(f"mrm/{row['prompt']}")
        first = wordings.opening(row["prompt"], rng) + " " if rng.random() < 0.3 else ""
        yield row["prompt"], first + row["answer"].lstrip()
    for row in _part(work / "samples/warnings.jsonl", held_out)[::2]:
        yield row["question"], row["answer"]
    for row in _part(work / "samples/aligned.jsonl", held_out):
        yield row["prompt"], row.get("opening", "") + row["answer"]


def make_mrm(guard: Path, data: Path, work: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Annotate the corpus and held-out answers by the guard, and train on them.

    Args:
        guard: Its directory.
        data: The data files.
        work: For corpora and shards; what an earlier run has finished there is not done again.
        out: The MRM's directory; one that is there is replaced.
        seed: Of the training.

    Returns:
        The held-out figures.
    """
    # another guard gives other rewards
    place = work / f"rewards-{file_hash(guard / ADAPTER_WEIGHTS)[:8]}"
    place.mkdir(parents=True, exist_ok=True)
    for name, held_out in (("mrm", False), ("held_out", True)):
        path = place / f"{name}.jsonl"
        if not path.exists():
            lines = (json.dumps(record, ensure_ascii=False) for record in records(data, work, held_out))
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        run_saffron(
            "annotate", str(path), "--prm", str(guard), "--out", str(place / name), "--dtype", "bfloat16", *ANNOTATE
        )
    return train_mrm(guard, place, out, "--seed", str(seed), *TRAIN)


def _part(path: Path, held_out: bool) -> list[Row]:
    return [row for row in read_jsonl(path) if row["held_out"] == held_out and row["answer"].strip()]
