"""Which threads compute: bulk work of small models on one, everything outside the engine on its own."""

import ctypes
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

logger = logging.getLogger(__name__)

_MAPPED = Path("/proc/self/maps")
# `omp_pause_soft`: what a thread may have set of OpenMP stays as it is
_SOFT = 1
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


def disband() -> None:
    """Let go of the helper threads that this thread has had torch start; its next large operation gets new ones.

    An operation over 32,768 numbers is enough for a team of helpers, and it lives as long as its thread: after one sum
    over a vocabulary on the main thread, the engine's own team would wait passively for the life of the process, and
    decode a third slower. Whoever hands the engine work therefore disbands first. It takes a microsecond where there
    is no team, and does nothing without GNU's OpenMP, which alone counts threads so.
    """
    if threading.get_ident() == _forked_thread:
        return
    for pause in _pauses():
        # it refuses within a parallel region, where this thread is a helper itself
        pause(_SOFT)


@functools.cache
def _pauses() -> tuple[Callable[[int], int], ...]:
    """`omp_pause_resource_all` (OpenMP 5.0) of what is loaded of GNU's OpenMP."""
    try:
        paths = {line.split(maxsplit=5)[-1].strip() for line in _MAPPED.read_text().splitlines() if "libgomp" in line}
        return tuple(ctypes.CDLL(path).omp_pause_resource_all for path in sorted(paths))
    except (OSError, AttributeError) as error:
        logger.debug("helper threads stay where they were started: %s", error)
        return ()


# the thread that is about to fork, without a team
_forking_thread: int | None = None
# the one that goes on in a child whose host forked without telling: it would wait for a team that stayed behind
_forked_thread: int | None = None


def _before_fork() -> None:
    global _forking_thread
    disband()
    _forking_thread = threading.get_ident()


def _in_parent() -> None:
    global _forking_thread
    _forking_thread = None


def _in_child() -> None:
    global _forking_thread, _forked_thread
    if _forking_thread != threading.get_ident():
        _forked_thread = threading.get_ident()
    _forking_thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
