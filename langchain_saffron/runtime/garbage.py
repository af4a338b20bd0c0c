"""The garbage collector: whether it holds a thread up, and a time without it."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CollectionWatch:
    """Knows how long a garbage collection on one thread has lasted.

    The collector runs on whatever thread it happens to interrupt, and there does what is to be done at the end of the
    objects that it finds: it closes generators, say. Such code may wait, also for what the interrupted thread should
    be doing.
    """

    def __init__(self) -> None:
        """No thread is watched yet."""
        self._thread = 0
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """Since the collection that runs on the thread began; 0 where none does."""
        begun = self._begun
        return 0.0 if begun is None else time.perf_counter() - begun

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the thread that enters this, until it leaves."""
        self._thread, self._begun = threading.get_ident(), None
        # in a forked child, the parent's thread has left it there
        if self._note not in gc.callbacks:
            gc.callbacks.append(self._note)
        try:
            yield
        finally:
            gc.callbacks.remove(self._note)
            self._begun = None

    def _note(self, phase: str, info: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self._begun = time.perf_counter() if phase == "start" else None


@contextmanager
def no_collections() -> Iterator[None]:
    """Within this context, no collection begins by itself: the end of some objects must not come in between."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
