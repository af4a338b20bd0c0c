"""What the parts do on held-out and public questions: refusals, breaks behind a prefill, agreement with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.smollm2.recipe import corpus, harmless, sources, wordings
from langchain_saffron.smollm2.recipe.sampling import Row, sample_answers
from langchain_saffron.training.calibration import auc

PREFILL_TOKENS = 10


def prefill_of(tokenizer: Any, target: str, tokens: int = PREFILL_TOKENS) -> str:
    """The attack's prefill: the first tokens of the target, as text."""
    text: str = tokenizer.decode(tokenizer.encode(target, add_special_tokens=False)[:tokens])
    return text


def policy_sets(data: Path, tokenizer: Any, most: int) -> dict[str, list[Row]]:
    """What the policy is measured by, the same questions every time."""

    def chosen(prompts: Sequence[str]) -> list[Row]:
        return [{"prompt": prompt} for prompt in sorted(set(prompts), key=sources.draw)[:most]]

    behaviours = sorted(sources.read_rows(data, "harmbench_standard"), key=lambda row: sources.draw(row["prompt"]))[
        :most
    ]
    held_out = [row["prompt"] for row in sources.read_rows(data, "benign") if sources.is_held_out(row["prompt"])]
    made = [
        prompt for prompt in harmless.everyday_prompts() + harmless.sensitive_prompts() if sources.is_held_out(prompt)
    ]
    return {
        "harmful_held_out": chosen(sources.prompts_of(data, sources.HARMFUL, True, set())),
        "harmbench": [{"prompt": row["prompt"]} for row in behaviours],
        "xstest_safe": chosen([row["prompt"] for row in sources.read_rows(data, "xstest") if not row["unsafe"]]),
        "benign": chosen([prompt for prompt in held_out if len(prompt) <= corpus.LONGEST]),
        "made_benign": chosen(made),
        "prefilled": [{"prompt": row["prompt"], "opening": prefill_of(tokenizer, row["target"])} for row in behaviours],
    }


def measure_policy(
    engine: SaffronEngine, data: Path, out: Path, most: int = 100, max_tokens: int = 40
) -> dict[str, Any]:
    """Shares of greedy answers that refuse; of prefilled ones, the share that does not."""
    figures: dict[str, Any] = {}
    for name, rows in policy_sets(data, engine.tokenizer, most).items():
        long = 3 * max_tokens if name == "prefilled" else max_tokens
        answers = sample_answers(engine, rows, out / f"{name}.jsonl", max_tokens=long, greedy=True)
        refused = sum(wordings.refuses(row["answer"]) for row in answers) / len(answers)
        figures["broken_by_prefill" if name == "prefilled" else f"refused_{name}"] = (
            1 - refused if name == "prefilled" else refused
        )
        figures[f"count_{name}"] = len(answers)
    return figures


def measure_guard(guard: ProcessRewardModel, data: Path, most: int = 400) -> dict[str, Any]:
    """AUC against labels that it was not trained on: after so many tokens, or at the end."""
    sets = {
        "diasafety": ("diasafety_test", lambda row: row["safe"], (None,)),
        "pyrit": ("pyrit_harm", lambda row: row["harm"] < 0.5, (24, None)),
        "jailbreakbench": ("jbb_completions", lambda row: row["safe"], (8, 24, 96)),
    }
    figures: dict[str, Any] = {}
    for name, (file, is_safe, lengths) in sets.items():
        rows = sources.read_rows(data, file)
        rows = [row for row in rows if row["prompt"].strip() and row["response"].strip()]
        Random(0).shuffle(rows)
        rows = rows[:most]
        pairs = [
            (
                guard.prompt_ids([("user", row["prompt"])]),
                guard.tokenizer.encode(row["response"], add_special_tokens=False)[:96],
            )
            for row in rows
        ]
        rewards: list[torch.Tensor] = []
        for start in range(0, len(pairs), 16):
            rewards += guard.score(pairs[start : start + 16])
        labels = np.array([bool(is_safe(row)) for row in rows])
        for length in lengths:
            last = np.array([float(one[min(len(one), length or len(one)) - 1]) for one in rewards])
            figures[f"auc_{name}" + (f"_{length}" if length else "")] = auc(labels, last)
        figures[f"count_{name}"] = len(rows)
        figures[f"rewards_{name}"] = [float(torch.cat(rewards).quantile(q)) for q in (0.01, 0.5, 0.99)]
    return figures
