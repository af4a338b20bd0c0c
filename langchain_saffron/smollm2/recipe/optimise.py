"""The optimiser's loop of both trainings: warm-up, a cosine to zero, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

_EVERY = 20


def fit(
    parameters: Sequence[nn.Parameter],
    loss_of: Callable[[list[int]], Tensor],
    batches: Sequence[list[int]],
    rate: float,
    checkpoint: Path,
    name: str,
) -> list[float]:
    """Fit parameters, one step a batch; a killed run goes on from its last checkpoint.

    Args:
        parameters: What is trained.
        loss_of: From a batch to its loss.
        batches: The plan, the same whenever a run is started again.
        rate: The highest learning rate.
        checkpoint: The file; it is deleted in the end.
        name: What is printed.

    Returns:
        The losses of all steps.
    """
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        if stored["batches"] == len(batches):
            for parameter, value in zip(parameters, stored["parameters"], strict=True):
                parameter.data.copy_(value)
            optimiser.load_state_dict(stored["optimiser"])
            losses = stored["losses"]
    began = time.perf_counter()
    warmup = max(1, min(30, len(batches) // 8))
    for step in range(len(losses), len(batches)):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        loss = loss_of(batches[step])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % _EVERY == 0 or step + 1 == len(batches):
            mean = sum(losses[-_EVERY:]) / len(losses[-_EVERY:])
            print(
                f"{name}: step {step + 1}/{len(batches)}  loss {mean:.4f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
        if (step + 1) % (2 * _EVERY) == 0:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {"parameters": [p.data for p in parameters], "optimiser": optimiser.state_dict(), "losses": losses,
                 "batches": len(batches)},
                checkpoint,
            )  # fmt: skip
    checkpoint.unlink(missing_ok=True)
    return losses
