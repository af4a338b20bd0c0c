"""The directory of a trained MRM: weights, config, plot and model card, written so that an unfinished one is none."""

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
from langchain_saffron.runtime.files import local_path, storing, whole
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.calibration import plot_agreement
from langchain_saffron.training.model_card import PLOT, model_card

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
    path = local_path(base).resolve()
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
        (staged / CARD).write_text(model_card(base, details), encoding="utf-8")
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
