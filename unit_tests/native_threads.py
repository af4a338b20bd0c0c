"""The threads of the process as the system counts them, those of torch's helpers too."""

import os
import sys
import time

import pytest

counts_threads = pytest.mark.skipif(sys.platform != "linux", reason="the threads of GNU's OpenMP, counted in /proc")


def threads_now() -> int:
    """How many there are."""
    return len(os.listdir("/proc/self/task"))


def threads_become(expected: int) -> bool:
    """Whether there are that many, or soon: those that end take a moment."""
    until = time.monotonic() + 5
    while (found := threads_now()) != expected and time.monotonic() < until:
        time.sleep(0.005)
    return found == expected
