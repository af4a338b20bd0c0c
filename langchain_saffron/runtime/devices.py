"""Numbers on their way to a device, how many threads compute there, and in which precision."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

# parameters
SMALL_MODEL = 10_000_000


def upload(
    values: Sequence[float] | Sequence[int] | torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A tensor of `values` on `device`, without waiting for the device to take it."""
    found = values.to(dtype) if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=dtype)
    return found.to(device, non_blocking=True)


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bfloat16; CPUs that have none take many times as long as for float32."""
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def threads_for(model: torch.nn.Module | None) -> Iterator[None]:
    """One thread of the CPU while a small model computes in bulk.

    Its operations are so short that several threads gain a third at best, and lose many times that as soon as another
    process wants a core, since each operation ends only when the last of them has had its turn.
    """
    threads = torch.get_num_threads()
    if model is not None and sum(p.numel() for p in model.parameters()) < SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
