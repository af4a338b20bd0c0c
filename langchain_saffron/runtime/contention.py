"""Threads that wait actively for work, beside another program that wants the cores too.

On a CPU, torch's helper threads spin between two operations, which is fastest as long as the cores are theirs. Where
they are not, each of a search's thousands of small operations ends only when the spinning threads have used up their
share of time, and the search takes some thirty times as long.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil  # accelerate brings it
import torch

logger = logging.getLogger(__name__)

VARIABLE = "OMP_WAIT_POLICY"
# seconds over which is counted; over much more, the count says nothing of now
WINDOW, LONGEST = 0.3, 5.0
# a core that others use less of counts as free
SHARE = 0.3
# windows in a row that have to find more cores free before they are taken again
WINDOWS = 3


class Usage(NamedTuple):
    """What has been used of the cores that this process may run on.

    Attributes:
        at: When it was read, in seconds.
        cores: How many there are.
        by_all: Seconds used by all programs.
        by_this: Seconds used by this process.
    """

    at: float
    cores: int
    by_all: float
    by_this: float

    @classmethod
    def now(cls) -> "Usage":
        """As it is."""
        every = psutil.cpu_times(percpu=True)
        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(len(every))
        # a container may show fewer cores than there are
        used = [sum(every[core]) - _unused(every[core]) for core in mine if core < len(every)]
        own = os.times()
        return cls(time.monotonic(), max(1, len(used)), sum(used), own.user + own.system)


class ContentionWatch:
    """Has torch compute on no more threads than cores are free, looked at between the steps of one thread.

    What is computed does not depend on it.
    """

    def __init__(self, on_cpu: bool, read: Callable[[], Usage] = Usage.now) -> None:
        """Begin to watch.

        Args:
            on_cpu: Whether the models compute there; else there is nothing to watch.
            read: What tells of the cores.
        """
        spins = os.environ.get(VARIABLE, "").upper() != "PASSIVE" and "GOMP_SPINCOUNT" not in os.environ
        self._watches = on_cpu and spins
        self._read = read
        self._threads: int | None = None
        self._last: Usage | None = None
        self._freer = 0
        self._told = False

    def look(self) -> None:
        """Take as many threads as cores are free, if there is something new to know; costs next to nothing."""
        if not self._watches or (self._last and time.monotonic() - self._last.at < WINDOW):
            return
        if self._threads is None:
            # as many as there are without others
            self._threads = torch.get_num_threads()
        self._watches = self._threads > 1
        now, before = self._read(), self._last
        self._last = now
        if before is None or now.at - before.at > LONGEST:
            return
        passed = now.at - before.at
        by_others = max(0.0, (now.by_all - before.by_all) - (now.by_this - before.by_this)) / passed
        fits = max(1, min(self._threads, int(now.cores - by_others + SHARE)))
        threads = torch.get_num_threads()
        self._freer = self._freer + 1 if fits > threads else 0
        if fits < threads or self._freer == WINDOWS:
            torch.set_num_threads(fits)
            self._freer = 0
        if fits < threads and not self._told:
            self._told = True
            logger.warning(
                "other programs use %.1f of %d cores: the engine computes on %d threads instead of %d while they do",
                by_others, now.cores, fits, self._threads,
            )  # fmt: skip

    def close(self) -> None:
        """Leave torch as it was."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)


def _unused(times: tuple[float, ...]) -> float:
    """Of a core's times, what nobody of this machine has used, and what is counted twice."""
    named = times._asdict()  # type: ignore[attr-defined]
    return sum(named.get(name, 0.0) for name in ("idle", "iowait", "steal", "guest", "guest_nice"))
