"""Tables chosen from by masks: a CPU guesses at every element of a random mask which way to go, and is often wrong."""

import numpy as np
import torch

# smaller tables cost less than the way around does
SMALLEST = 2**13


def or_never(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log-probabilities or scores where a mask holds, and minus infinity elsewhere.

    Args:
        values: float tensor of any shape.
        mask: bool tensor of that shape.
    """
    if values.device.type != "cpu" or values.numel() < SMALLEST:
        return torch.where(mask, values, -torch.inf)
    chosen = torch.threshold_(_ones(mask, values).sub_(1), -0.5, -torch.inf).add_(values)
    # NaN, or plus infinity less infinity
    return torch.where(mask, values, -torch.inf) if bool(chosen.amax().isnan()) else chosen


def or_nothing(mass: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Probabilities where a mask holds, and zero elsewhere."""
    if mass.device.type != "cpu" or mass.numel() < SMALLEST:
        return torch.where(mask, mass, 0.0)
    return _ones(mask, mass).mul_(mass)


def row_any(mask: torch.Tensor) -> torch.Tensor:
    """Whether a mask holds anywhere in each row: bool [rows, columns] to bool [rows, 1]."""
    if mask.device.type != "cpu":
        return mask.any(dim=-1, keepdim=True)
    return torch.from_numpy(mask.numpy().any(axis=-1, keepdims=True))


def column_any(mask: torch.Tensor) -> torch.Tensor:
    """Whether a mask holds anywhere in each column: bool [rows, columns] on the CPU to bool [columns]."""
    return torch.from_numpy(mask.numpy().any(axis=0))


def unsound(values: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Whether a wanted value is NaN or infinite: a bool scalar."""
    if values.device.type == "cpu" and np.isfinite(values.numpy()).all():
        return torch.zeros((), dtype=torch.bool)
    return (wanted & ~values.isfinite()).any()


def _ones(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    # as bytes: from bool, torch converts one element after the other
    return mask.view(torch.uint8).to(like.dtype)
