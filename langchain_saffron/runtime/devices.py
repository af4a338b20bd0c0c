"""Numbers on their way to a device, and in which precision it computes."""

from collections.abc import Sequence

import torch


def upload(
    values: Sequence[float] | Sequence[int] | torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A tensor of `values` on `device`, without waiting for the device to take it."""
    tensor = values.to(dtype) if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=dtype)
    return tensor.to(device, non_blocking=True)


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bfloat16; CPUs that have none take many times as long as for float32."""
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
