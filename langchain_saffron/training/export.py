"""The directory of a trained MRM: weights, config, plot and model card."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langchain_saffron.errors import TrainingError
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, CONFIG_FILE, read_config, write_mrm_files
from langchain_saffron.runtime.files import storing, whole
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.calibration import plot_agreement

PLOT = "held_out.png"
CARD = "README.md"
_STAGED = ".mrm"
# what tells a model's directory, or an MRM in the published layout
_OTHERS = ("config.json", "lm_head_bias.pt")


def trained_epochs(out: Path, run: dict[str, Any]) -> int:
    """How many epochs of this run are finished in `out`: 0, all of them, or fewer, with which it can go on.

    A directory that was being written when its run was killed is brought to its end first.

    Raises:
        TrainingError: It holds something else.
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file: --out has to be a directory")
    unstage(out)
    if not (out / CONFIG_FILE).exists():
        if any((out / name).exists() for name in _OTHERS):
            raise TrainingError(f"{out} holds another model: choose another --out")
        return 0
    wanted = json.loads(json.dumps(run))
    there = read_config(out).get("training", {}).get("run")
    epochs = there.get("settings", {}).get("epochs") if isinstance(there, dict) else None
    if not isinstance(epochs, int) or {**there, "settings": {**there["settings"], "epochs": None}} != {
        **wanted,
        "settings": {**wanted["settings"], "epochs": None},
    }:
        raise TrainingError(f"{out} holds another reward model: choose another --out, or delete it")
    if epochs > wanted["settings"]["epochs"]:
        raise TrainingError(
            f"{out} is trained for {epochs} epochs already: more go on with it, fewer need another --out"
        )
    return epochs


def base_name(base: str, out: Path) -> str:
    """How the base is named in `out`: a hub id, a relative path if they lie side by side, else an absolute one."""
    path = Path(base).expanduser().resolve()
    if not path.exists():
        return base
    together = out.resolve().parent
    return os.path.relpath(path, out.resolve()) if path.is_relative_to(together) else str(path)


def write_mrm(
    out: Path,
    adapted: Any,
    bias: torch.Tensor,
    seen: torch.Tensor,
    tokenizer: Any,
    template: RewardTemplate,
    base: str,
    details: dict[str, Any],
    rewards: np.ndarray,
    predictions: np.ndarray,
) -> None:
    """Write an MRM directory; its config comes last, so that an unfinished one is none.

    Args:
        out: The directory.
        adapted: The peft model.
        bias: The trained bias.
        seen: The tokens that were targets.
        tokenizer: The base's.
        template: The MRM's.
        base: The base's name.
        details: `reward_source` and `training`, with the held-out figures and the threshold.
        rewards: The held-out rewards of the PRM.
        predictions: The MRM's predictions of them.

    Raises:
        StorageError: It could not be written.
    """
    with staging(out) as staged:
        adapted.save_pretrained(staged, save_embedding_layers=False)
        config = json.loads((staged / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        # peft writes the path at which it found the base, which is of no use elsewhere
        config["base_model_name_or_path"] = base
        # a set, written in whatever order
        config["target_modules"] = sorted(config["target_modules"])
        (staged / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        plot_agreement(staged / PLOT, rewards, predictions, "Held-out prefixes")
        (staged / CARD).write_text(_card(base, details), encoding="utf-8")
        threshold = details["training"]["held_out"]["safety_threshold"]
        write_mrm_files(staged, bias, seen, tokenizer, template, threshold, base, details)
        for file in staged.iterdir():
            file.chmod(0o644)


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """An empty directory whose files go to `out` if all went well, the config last: an unfinished MRM is none.

    Raises:
        StorageError: They could not be written.
    """
    with whole(out / _STAGED) as staged:
        staged.mkdir(parents=True)
        yield staged
    unstage(out)


def unstage(out: Path) -> None:
    """Move what is staged to its place, the config last; several processes may do so at once."""
    with storing(out), suppress(FileNotFoundError):
        for file in sorted((out / _STAGED).iterdir(), key=lambda file: file.name == CONFIG_FILE):
            with suppress(FileNotFoundError):
                os.replace(file, out / file.name)
        (out / _STAGED).rmdir()


def _card(base: str, details: dict[str, Any]) -> str:
    training = details["training"]
    held_out = training["held_out"]
    threshold = held_out["safety_threshold"]
    bins = "\n".join(
        f"| {row['from']:g} to {row['to']:g} | {row['rewards']:,} | {row['mse']:.3f} | {row['within_1']:.1%} |"
        for row in held_out["by_bin"]
    )
    agreed = "–" if held_out["auc"] is None else f"{held_out['auc']:.4f}"
    calibrated = (
        f"`safety_threshold` is {threshold:.3f}: {training['safety_threshold']}."
        if threshold is not None
        else "No `safety_threshold` could be calibrated: on these data no reward separates safe from unsafe."
    )
    after = training.get("continued_after")
    continued = f" (finished after {', '.join(map(str, after))}, and continued)" if after else ""
    return f"""---
library_name: langchain-saffron
base_model: {base}
tags: [safety, reward-model, saffron]
---

# A multifurcation reward model

For every token that could come next it predicts the safety reward of the text with that token, in one call
(SAFFRON-1, [arXiv 2506.06444](https://arxiv.org/abs/2506.06444)). It guides decoding in `langchain-saffron`:

```python
from langchain_saffron import ChatSaffron

chat = ChatSaffron(model="a policy with this vocabulary", reward_model="this directory")
```

Base: `{base}`, with a LoRA adapter of rank {training["run"]["settings"]["rank"]} and a bias over its unembedding.
Reward: {details["reward_source"]}.

## Held-out agreement with the reward that it was trained on

| | |
|---|---|
| prefixes | {held_out["rewards"]:,} |
| Pearson r | {held_out["pearson_r"]:.4f} |
| within ±1 | {held_out["within_1"]:.1%} |
| AUC, safe against unsafe | {agreed} |
| mean squared error | {held_out["mse"]:.4f} |

| reward | prefixes | mean squared error | within ±1 |
|---|---|---|---|
{bins}

![predictions over rewards]({PLOT})

{calibrated}

## Training

Partial supervision (eq. 5 of the paper) on {training["rewards"]:,} rewards of {training["conversations"]:,} answers,
{training["run"]["settings"]["epochs"]} epoch(s){continued}, {training["trained_parameters"]:,} trained parameters.
{training["seen_tokens"]:,} of the vocabulary's {training["vocabulary"]:,} tokens occurred; searches keep away from the
others (`mask=`).

## Limits

It knows no more of safety than the process reward model whose rewards it learned, serves policies of this vocabulary
only, and is at its best on text like the corpus that it was trained on.
"""
