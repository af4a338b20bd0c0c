"""How much memory was taken, and running out of it, as an error that says what to do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from langchain_saffron.errors import ModelMemoryError


@contextmanager
def memory_errors(message: str) -> Iterator[None]:
    """Within this context, torch's ways of running out of memory become a `ModelMemoryError` with `message`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # the traceback holds the frames of the failed forward, and so all that it had allocated
        error = error.with_traceback(None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise ModelMemoryError(message) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in any of torch's ways."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in text for sign in ("can't allocate memory", "out of memory", "not enough memory")
    )


def free_on_device(device: torch.device) -> int | None:
    """Bytes that a device of CUDA's has left, what torch holds without using it included; `None` for others."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def peak_memory() -> int | None:
    """The most bytes of memory that this process has held so far; `None` where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
