"""A finished training that goes on with more epochs."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from langchain_saffron.errors import TrainingError
from langchain_saffron.models.mrm_files import ADAPTER_WEIGHTS, TENSOR_FILE, read_config
from langchain_saffron.training.partial_supervision import PartialSupervision

LOSSES = "losses.jsonl"
_AFTER = "continued_after"


def finished_run(out: Path) -> dict[str, Any]:
    """What the checkpoints of the finished training in `out` say that they belong to."""
    training = read_config(out)["training"]
    return {**training["run"], **{name: training[name] for name in (_AFTER,) if name in training}}


@dataclass(frozen=True)
class Earlier:
    """What was trained before this run.

    Attributes:
        losses: Of all its steps.
        continued_after: After how many epochs it was finished, every time; empty where nothing was trained before.
    """

    losses: list[float] = field(default_factory=list)
    continued_after: list[int] = field(default_factory=list)

    @classmethod
    def load(cls, out: Path, module: PartialSupervision, steps: int) -> Self:
        """Put the weights of a finished training into a model, in place.

        Args:
            out: The finished reward model's directory.
            module: The base with a fresh adapter.
            steps: How many are done.

        Raises:
            TrainingError: The directory is damaged.
        """
        from peft import set_peft_model_state_dict

        try:
            adapter, bias = load_file(out / ADAPTER_WEIGHTS), load_file(out / TENSOR_FILE)["bias"]
            lines = (out / LOSSES).read_text(encoding="utf-8").splitlines()
            # a run that goes on with it writes its losses before its weights, and may be killed between
            losses = [float(json.loads(line)["loss"]) for line in lines[:steps]]
            if len(losses) < steps:
                raise ValueError(f"{LOSSES} has {len(losses)} of {steps} steps")
            found = set_peft_model_state_dict(module.model, adapter)
            if odd := [*found.unexpected_keys, *(name for name in found.missing_keys if "lora_" in name)]:
                raise KeyError(odd[0])
            with torch.no_grad():
                module.bias.copy_(bias)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"{out} cannot go on, it is damaged ({error}): train from the start in another --out"
            ) from error
        training = read_config(out)["training"]
        return cls(losses, [*training.get(_AFTER, []), training["run"]["settings"]["epochs"]])

    @property
    def record(self) -> dict[str, Any]:
        """What configs and checkpoints say of it."""
        return {_AFTER: self.continued_after} if self.continued_after else {}
