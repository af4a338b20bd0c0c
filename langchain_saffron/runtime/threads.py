"""Which threads compute: bulk work of small models on one, everything outside the engine on its own."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

# parameters
SMALL_MODEL = 10_000_000

P = ParamSpec("P")
R = TypeVar("R")


def on_own_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` in a thread that ends with it.

    On a CPU every thread that computes gets a team of helpers that lives as long as the thread. Once there are more
    of them than cores, none waits actively for its next piece of work any more, and the many small operations of a
    decoding step take a quarter longer. So only the engine's own thread may keep a team.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        results: list[R] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                results.append(function(*args, **kwargs))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=body, name=f"saffron-{function.__name__}", daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    return run


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
