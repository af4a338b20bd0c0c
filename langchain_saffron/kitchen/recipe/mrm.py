"""The kitchen's MRM, made by the package's own commands: `saffron annotate`, then `saffron train`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from langchain_saffron.kitchen.generator import CorpusName, conversations

CHATS, HELD_OUT_CHATS = 9_000, 800
# all of a conversation, but for one in a thousand; the PRM was trained on last answers
ANNOTATE = ("--max-tokens", "640", "--turns", "last")
TRAIN = ("--epochs", "3", "--batch-size", "16", "--learning-rate", "3e-3")
# what the directory of a trained MRM holds besides the MRM
_LEFT_OUT = ("logs", "losses.jsonl", "README.md")


def write_corpus(path: Path, corpus: CorpusName, count: int, seed: int) -> None:
    """Write generated conversations as JSONL, one object with `messages` a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for item in conversations(corpus, count, seed):
            file.write(json.dumps({"messages": item.messages}, ensure_ascii=False) + "\n")


def annotate_corpora(prm: Path, work: Path, chats: int, held_out: int, seed: int = 0, *options: str) -> None:
    """Generate the MRM's corpus and held-out conversations, and annotate both by the PRM, into `mrm` and `held_out`.

    Args:
        prm: The kitchen's PRM.
        work: Where all of it goes; what an earlier run has finished there is not done again.
        chats: Conversations in the corpus.
        held_out: Conversations that are held out.
        seed: Of the data.
        *options: More of `saffron annotate`.
    """
    counts: dict[CorpusName, int] = {"mrm": chats, "held_out": held_out}
    for corpus, count in counts.items():
        write_corpus(work / f"{corpus}.jsonl", corpus, count, seed)
        given = ("--prm", str(prm), "--out", str(work / corpus), *options)
        run_saffron("annotate", f"{work / corpus}.jsonl", *given, *ANNOTATE)


def make_mrm(prm: Path, out: Path, work: Path, seed: int = 0, chats: int = CHATS) -> dict[str, Any]:
    """Annotate the MRM's corpus and held-out conversations by the PRM, and train on them.

    Args:
        prm: The kitchen's PRM.
        out: The MRM's directory; one that is there is replaced.
        work: For corpora and shards; what an earlier run has finished there is not done again.
        seed: Of the data and the training.
        chats: Conversations in the training corpus.

    Returns:
        The held-out figures.
    """
    annotate_corpora(prm, work, chats, HELD_OUT_CHATS, seed)
    return train_mrm(prm, work, out, "--seed", str(seed), *TRAIN)


def train_mrm(prm: Path, work: Path, out: Path, *options: str) -> dict[str, Any]:
    """Train on rewards, and leave of what `saffron train` writes the MRM itself.

    Args:
        prm: What gave the rewards: the base.
        work: Holds the rewards, `mrm` and `held_out`.
        out: The MRM's directory; one that is there is replaced.
        *options: Of `saffron train`.

    Returns:
        The held-out figures.
    """
    fresh = out.with_name(out.name + ".new")
    given = ("--base", str(prm), "--held-out", str(work / "held_out"), "--out", str(fresh))
    run_saffron("train", str(work / "mrm"), *given, *options)
    for name in _LEFT_OUT:
        path = fresh / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            # a run that was cut short here has taken some away
            path.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    training: dict[str, Any] = json.loads((out / "mrm_config.json").read_text(encoding="utf-8"))["training"]
    held_out = {key: value for key, value in training["held_out"].items() if key != "by_bin"}
    return {**held_out, "trained_on": training["rewards"], "seen_tokens": training["seen_tokens"]}


def run_saffron(*arguments: str) -> None:
    """A command of the package, in a process of its own."""
    subprocess.run([sys.executable, "-m", "langchain_saffron", *arguments], check=True)
