"""Devices: which one computes and in which precision, and numbers on their way to it."""

from collections.abc import Sequence
from typing import Any

import torch

from langchain_saffron.errors import ModelLoadError


def default_device() -> str:
    """The accelerator if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """float32 on a CPU, where it is exact and not slower; the checkpoint's own elsewhere."""
    return "float32" if device == "cpu" else "auto"


def torch_dtype(dtype: str | torch.dtype) -> Any:
    """What transformers takes as a dtype: torch's, or `"auto"`.

    Raises:
        ModelLoadError: There is none of that name.
    """
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    resolved = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise ModelLoadError(f"dtype: {dtype!r} is none of 'float32', 'bfloat16', 'float16', 'float64', 'auto'")
    return resolved


def upload(
    values: Sequence[float] | Sequence[int] | torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A tensor of `values` on `device`, without waiting for the device to take it."""
    tensor = values.to(dtype) if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=dtype)
    return tensor.to(device, non_blocking=True)


def page_locked(size: int, device: torch.device) -> torch.Tensor:
    """Memory for what goes to `device`: uint8 tensor [size] on the CPU.

    For an accelerator of CUDA's it is page-locked, so that a copy runs beside what the CPU does; torch hands it out
    again no sooner than that copy is done.
    """
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda" and torch.cuda.is_available())


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bfloat16; CPUs that have none take many times as long as for float32."""
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_device(device: str) -> None:
    """See that a device is there, without taking memory of an accelerator.

    Raises:
        ModelLoadError: It is not, or its name is none.
    """
    try:
        found = torch.device(device)
        if found.type == "cuda":
            count = torch.cuda.device_count()
            if (found.index or 0) >= count:
                raise ModelLoadError(
                    f"device: {device!r} is not there: torch sees {count} of CUDA's; pass another, or 'cpu'"
                )
        else:
            torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelLoadError(f"device: {device!r} cannot be used: {first}") from error
