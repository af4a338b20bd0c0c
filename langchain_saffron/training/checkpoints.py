"""Checkpoints of a training run: trainable weights, optimiser state and the losses so far, in safetensors."""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langchain_saffron.errors import TrainingError
from langchain_saffron.runtime.files import whole
from langchain_saffron.training.shards import file_hash

_NAME = re.compile(r"step-(\d{8})")
_WEIGHTS, _OPTIMISER, _STATE = "weights.safetensors", "optimiser.safetensors", "state.json"
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run in a directory.

    Attributes:
        directory: Where they lie.
        run: What the run depends on; checkpoints of another run are refused.
    """

    def __init__(self, directory: Path, run: Mapping[str, Any]) -> None:
        self.directory = directory
        # as JSON will give it back
        self.run = json.loads(json.dumps(run))

    def save(
        self, step: int, weights: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer, losses: list[float]
    ) -> None:
        """Write a checkpoint, and drop all but the last two.

        Raises:
            StorageError: It could not be written; earlier ones are whole.
        """
        with whole(self.directory / f"step-{step:08d}") as partial:
            partial.mkdir(parents=True)
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, partial / _WEIGHTS
            )
            save_file(_flatten(optimiser), partial / _OPTIMISER)
            state = {
                "step": step,
                "run": self.run,
                "losses": losses,
                "sha256": {name: file_hash(partial / name) for name in (_WEIGHTS, _OPTIMISER)},
            }
            (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
        for _, old in self._by_step()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self, weights: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer) -> tuple[int, list[float]]:
        """Take up the last checkpoint, in place; step 0 if there is none.

        Args:
            weights: The trainable tensors by name.
            optimiser: Over these tensors.

        Returns:
            The steps that are done, and their losses.

        Raises:
            TrainingError: It belongs to another run, or is damaged.
        """
        checkpoints = self._by_step()
        if not checkpoints:
            return 0, []
        step, path = checkpoints[-1]
        before = f"to go on from step {checkpoints[-2][0]}" if len(checkpoints) > 1 else "to begin again"
        damaged = f"the checkpoint {path} is damaged: delete it {before}"
        try:
            state = json.loads((path / _STATE).read_text(encoding="utf-8"))
            hashes, run = state["sha256"], state["run"]
            if any(file_hash(path / name) != hashes[name] for name in (_WEIGHTS, _OPTIMISER)):
                raise TrainingError(damaged)
            if run != self.run:
                differing = [key for key in self.run if run.get(key) != self.run[key]]
                raise TrainingError(
                    f"{self.directory} holds checkpoints of another run (other {', '.join(differing)}): choose another "
                    "--out, or delete them"
                )
            saved, moments = load_file(path / _WEIGHTS), load_file(path / _OPTIMISER)
            losses: list[float] = state["losses"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            if isinstance(error, TrainingError):
                raise
            raise TrainingError(damaged) from error
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(saved[name])
        _restore(optimiser, moments)
        return step, losses

    def clear_if_own(self) -> None:
        """Remove those that this very run has left, and none of another."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            states = [json.loads((path / _STATE).read_text(encoding="utf-8")) for _, path in self._by_step()]
            if states and all(state["run"] == self.run for state in states):
                self.clear()

    def clear(self) -> None:
        """Remove them all, and nothing else."""
        for path in [*(path for _, path in self._by_step()), *self.directory.glob("step-*.partial")]:
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            self.directory.rmdir()

    def _by_step(self) -> list[tuple[int, Path]]:
        paths = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted((int(match[1]), path) for path in paths if (match := _NAME.fullmatch(path.name)))


def _flatten(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors."""
    states = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, state in states.items()
        for name, value in state.items()
    }


def _restore(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
