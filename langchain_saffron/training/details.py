"""What the directory of a reward model tells of how it was trained."""

from collections.abc import Mapping
from typing import Any

import torch

from langchain_saffron.training.dataset import RewardData


def training_details(
    method: str,
    run: Mapping[str, Any],
    data: RewardData,
    seen: torch.Tensor,
    parameters: int,
    figures: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """The record of a training, as it stands in the config beside the weights.

    Args:
        method: How it was trained.
        run: What makes it this run: `run`, and what lies before it.
        data: What it was trained on.
        seen: bool tensor [vocabulary]: the tokens that those showed it.
        parameters: How many were trained.
        figures: The held-out figures.
        **more: What else belongs to the training.

    Returns:
        `reward_source` and `training`.
    """
    return {
        "reward_source": data.prm.get("source") or "rewards of unknown origin",
        "training": {
            "method": method,
            **run,
            "conversations": len(data.samples),
            "rewards": data.rewards,
            **({"candidates": count} if (count := data.candidates) else {}),
            "seen_tokens": int(seen.sum()),
            "vocabulary": len(seen),
            "trained_parameters": parameters,
            "held_out": figures,
            **more,
        },
    }
