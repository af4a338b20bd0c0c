"""Numbers on their way to a device."""

from collections.abc import Sequence

import torch


def upload(
    values: Sequence[float] | Sequence[int] | torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A tensor of `values` on `device`, without waiting for the device to take it."""
    found = values.to(dtype) if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=dtype)
    return found.to(device, non_blocking=True)
