"""The training loop: what a step computes does not depend on how many processes share it."""

import gc
import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from langchain_saffron.errors import TrainingError
from langchain_saffron.runtime.files import storing
from langchain_saffron.runtime.memory import memory_errors
from langchain_saffron.training.calibration import Choices, Predicted
from langchain_saffron.training.checkpoints import Checkpoints
from langchain_saffron.training.choice_loss import squared_errors
from langchain_saffron.training.dataset import RewardData, plan_batches
from langchain_saffron.training.partial_supervision import PartialSupervision, Supervision
from langchain_saffron.training.sample import Sample, Targets
from langchain_saffron.training.settings import TrainSettings

_LOG_EVERY = 10

Progress = Callable[[int, int, float], None]
Report = Callable[[str], None]


class Trainer:
    """Fits the trainable weights of a model to annotated data, and predicts rewards with it.

    Attributes:
        accelerator: The processes.
        checkpoints: Where the run is kept.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: PartialSupervision,
        data: RewardData,
        settings: TrainSettings,
        checkpoints: Checkpoints,
        before: int = 0,
    ) -> None:
        self.accelerator = accelerator
        self._logs = Path(accelerator.logging_dir) / "logs"
        self.checkpoints = checkpoints
        self._data = data
        self._settings = settings
        # steps that an earlier training has done
        self._before = before
        self._plan = plan_batches(data, settings.batch_size, settings.epochs, settings.seed)[before:]
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        rate = settings.learning_rate
        adapter = [p for p in self._weights.values() if p is not module.bias]
        groups = [
            {"params": adapter, "rate": rate, "weight_decay": 0.01},
            {"params": [module.bias], "rate": settings.bias_learning_rate or 5 * rate, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self._step, self._losses = checkpoints.load(self._weights, optimiser)
        with warnings.catch_warnings():
            # torch renames the option; the old name is the one that all versions know
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            self._module, self._optimiser = accelerator.prepare(module, optimiser)
        self._inner = optimiser
        self._core = module
        self._pending: list[torch.Tensor] = []

    def fit(self, progress: Progress | None, report: Report | None) -> list[float]:
        """Run all steps that are left; the loss of each of them all."""
        steps = len(self._plan)
        if self._step and report and self.accelerator.is_main_process:
            report(f"going on from step {self._step} of {steps}")
        with storing(self._logs):
            self.accelerator.init_trackers("logs", config=None)
        while self._step < steps:
            self._pending.append(self._advance())
            self._step += 1
            saves = self._step % self._settings.checkpoint_every == 0 and self._step < steps
            if saves or self._step % _LOG_EVERY == 0 or self._step == steps:
                self._collect()
                if progress and self.accelerator.is_main_process:
                    progress(self._step, steps, self._losses[-1])
            if saves:
                if self.accelerator.is_main_process:
                    self.checkpoints.save(self._step, self._weights, self._inner, self._losses)
                self.accelerator.wait_for_everyone()
        return self._losses

    @torch.no_grad()
    def predict(self, data: RewardData) -> Predicted:
        """The PRM's rewards and the predictions of them, in the order of the data, on every process."""
        size = self._settings.micro_batch_size or self._settings.batch_size
        order = sorted(range(len(data.samples)), key=lambda i: len(data.samples[i].token_ids))
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        targets = [sample.targets() for sample in data.samples]
        mine: list[tuple[int, np.ndarray]] = []
        for batch in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
            predicted, _ = self._predicted(self._core, [(data.samples[i], targets[i]) for i in batch])
            parts = predicted.float().cpu().split([len(targets[i][0]) for i in batch])
            mine += [(index, part.numpy()) for index, part in zip(batch, parts, strict=True)]
        predictions = dict(gather_object(mine) if self.accelerator.num_processes > 1 else mine)
        parts = [predictions[i] for i in range(len(targets))]
        said = [int(sample.known.sum()) for sample in data.samples]
        return Predicted(
            np.concatenate([rewards[:n] for (_, _, rewards), n in zip(targets, said, strict=True)]),
            np.concatenate([part[:n] for part, n in zip(parts, said, strict=True)]),
            Choices.of(targets, parts) if data.candidates else None,
        )

    def release(self) -> None:
        """Let go of what the processes share, while all of them are there; nothing is fitted after it.

        What several processes average gradients by waits, as it goes, for threads that may wait for the others.
        """
        self._module = self._core
        self._optimiser = self._inner
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.wait_for_everyone()

    def _advance(self) -> torch.Tensor:
        """One step; this process's share of the batch's mean loss."""
        samples = (self._data.samples[i] for i in self._plan[self._step])
        batch = [(sample, sample.targets()) for sample in samples]
        rewards = sum(len(at) for _, (at, _, _) in batch)
        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self._settings.micro_batch_size or len(batch)
        # a process without a share takes part with a weight of zero: the others wait for its gradients
        parts = [mine[i : i + size] for i in range(0, len(mine), size)] or [batch[:1]]
        weight = 1.0 if mine else 0.0
        total = torch.zeros((), device=self.accelerator.device)
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self._module):
                predicted, known = self._predicted(self._module, part)
                error = predicted - known.rewards
                loss = weight * squared_errors(error, known.prefix) / rewards
                # gradients of several processes are averaged, but this is a sum over them
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(list(self._weights.values()), 1.0)
        factor = _schedule(self._step, len(self._plan))
        for group in self._inner.param_groups:
            group["lr"] = group["rate"] * factor
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return total

    def _predicted(
        self, module: torch.nn.Module, part: list[tuple[Sample, Targets]]
    ) -> tuple[torch.Tensor, Supervision]:
        """What a module predicts for some conversations, and what they teach."""
        samples, targets = zip(*part, strict=True)
        batch = Supervision.of(samples, self.accelerator.device, targets)
        with memory_errors("training ran out of memory: lower --micro-batch-size, or load with --dtype bfloat16"):
            return module(batch.input_ids, batch.sequence, batch.position, batch.following), batch

    def _collect(self) -> None:
        """Sum the pending losses over the processes, and log them."""
        losses = self.accelerator.reduce(torch.stack(self._pending), reduction="sum").tolist()
        self._pending.clear()
        if not all(math.isfinite(loss) for loss in losses):
            raise TrainingError(f"the loss is not finite at step {self._step}: lower --learning-rate")
        with storing(self._logs):
            for i, loss in enumerate(losses):
                step = self._step - len(losses) + i + 1
                rate = self._settings.learning_rate * _schedule(step - 1, len(self._plan))
                self.accelerator.log({"loss": loss, "learning_rate": rate}, step=self._before + step)
        self._losses += losses


def _schedule(step: int, steps: int) -> float:
    """The learning rate's factor: a linear start, then a cosine to zero."""
    warmup = max(1, min(100, steps // 10))
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
