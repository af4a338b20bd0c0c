"""What a forked child has to make anew: locks that a thread of its parent may have held, and threads that it lacks."""

import os
import threading
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something with locks or threads."""

    def renew(self) -> None:
        """Make them anew; called in a forked child, before anything else runs there."""


_renewables: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_after_fork(one: Renewable) -> None:
    """Have `one.renew()` called in every forked child for as long as `one` lives."""
    _renewables.add(one)


class ForkSafeLock:
    """A lock that is free in a forked child, whoever held it in the parent; for `with` statements."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make it anew."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _renew() -> None:
    for one in list(_renewables):
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
