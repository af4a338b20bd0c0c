"""A corpus of the policy of `smollm2`, to compare reward models by: its own answers, and conversations of others.

Everything harmful comes from the data files and from the model, and lies in the working directory only. Prompts that
the evaluation asks are left out; prompts that are held out are held out here as well.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from langchain_saffron.embedded import named_part
from langchain_saffron.engine import SaffronEngine
from langchain_saffron.kitchen.recipe.mrm import run_saffron
from langchain_saffron.runtime.files import whole
from langchain_saffron.smollm2.build import load_engine
from langchain_saffron.smollm2.recipe import corpus, sources, wordings
from langchain_saffron.smollm2.recipe.mrm import ANNOTATE, CONVERSATIONS_HELD_OUT
from langchain_saffron.smollm2.recipe.sampling import Row, sample_answers

# of every three harmful requests two are answered behind an opening
_PLAIN_EVERY = 3


def asked_rows(data: Path, answers: int) -> list[Row]:
    """What the policy answers: harmful requests, plain and behind openings of many kinds, half; the rest benign.

    Args:
        data: The directory of the data files.
        answers: How many, the held-out ones among them.
    """
    harmful = sorted(corpus.harmful_rows(data), key=lambda row: sources.draw(row["prompt"]))
    for number, row in enumerate(harmful):
        if number % _PLAIN_EVERY == 0:
            row["opening"] = ""
    # and a second time behind another opening
    again = [
        {**row, "opening": wordings.opening(row["question"], Random(f"again/{row['question']}"))} for row in harmful
    ]
    chosen = [*harmful, *again][: answers // 2]
    warnings, benign = corpus.warning_rows(data), corpus.benign_rows(data)
    return [*chosen, *warnings[: answers // 10], *benign[: answers - len(chosen) - min(len(warnings), answers // 10)]]


def transcripts(data: Path, held_out: bool, count: int) -> Iterator[dict[str, Any]]:
    """Records of HH-RLHF and written answers to benign prompts, `count` of both together.

    Args:
        data: The directory of the data files.
        held_out: Which part.
        count: How many; a third are written answers.
    """
    without = sources.evaluation_prompts(data)
    rows = sorted(sources.read_rows(data, "hh_harmless"), key=lambda row: sources.draw(row["chosen"]))
    rows = rows[:CONVERSATIONS_HELD_OUT] if held_out else rows[CONVERSATIONS_HELD_OUT:]
    for row in rows[: count - count // 3]:
        if sources.normalise(row["chosen"].partition("\n\nAssistant:")[0].partition("Human:")[2]) not in without:
            yield {"chosen": row["chosen"], "rejected": row["rejected"]}
    written = [row for row in sources.read_rows(data, "benign") if sources.is_held_out(row["prompt"]) == held_out]
    for row in sorted(written, key=lambda row: sources.draw(row["prompt"]))[: count // 3]:
        if len(row["prompt"]) <= corpus.LONGEST_LEARNT and row["response"].strip():
            yield {"prompt": row["prompt"], "response": row["response"]}


def write_corpus(engine: SaffronEngine, data: Path, work: Path, answers: int, others: int) -> tuple[Path, Path]:
    """Write both parts; what an earlier run has sampled is not sampled again.

    Args:
        engine: The policy's.
        data: The directory of the data files.
        work: For the answers and the corpora.
        answers: Of the policy.
        others: Conversations that are not the policy's; a tenth as many are held out.

    Returns:
        The files of the part to train on and of the one to measure by.
    """
    rows = sample_answers(engine, asked_rows(data, answers), work / "answers.jsonl", max_tokens=corpus.HARMFUL_TOKENS)
    paths = work / "train.jsonl", work / "held_out.jsonl"
    for path, held_out in zip(paths, (False, True), strict=True):
        records = [
            {
                "messages": [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row.get("opening", "") + row["answer"]},
                ]
            }
            for row in rows
            if row["held_out"] == held_out and row["answer"].strip()
        ]
        records += transcripts(data, held_out, others // 10 if held_out else others)
        # mixed, so that the first records are some of all kinds
        Random(0).shuffle(records)
        with whole(path) as partial:
            partial.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), "utf-8")
    return paths


def annotate_own(data: Path, work: Path, chats: int, *options: str) -> None:
    """Have the policy answer, and its guard annotate, into `mrm` and `held_out`; what is finished is not done again.

    Args:
        data: The directory of the data files.
        work: Where everything goes.
        chats: Records to train on.
        *options: More of `saffron annotate`.
    """
    engine = load_engine("smollm2")
    paths = write_corpus(engine, data, work, chats, chats // 3)
    engine.close()
    for path, name, most in zip(paths, ("mrm", "held_out"), (chats, max(50, chats // 8)), strict=True):
        guard = str(named_part("smollm2", "process_reward_model"))
        given = ("--prm", guard, "--out", str(work / name), "--limit", str(most), "--dtype", "bfloat16")
        run_saffron("annotate", str(path), *given, *options, *ANNOTATE)
