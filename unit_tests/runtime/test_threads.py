"""Small models on one thread, and work on a thread of its own."""

import subprocess
import sys
import threading

import pytest
import torch

from langchain_saffron.runtime.threads import SMALL_MODEL, disband, on_own_thread, threads_for
from unit_tests.native_threads import counts_threads, threads_become, threads_now


def test_small_models_take_one_thread_and_give_the_others_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(torch.nn.Linear(2, 2)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with threads_for(None), threads_for(torch.nn.Linear(SMALL_MODEL, 1, device="meta")):
            assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), threads_for(torch.nn.Linear(2, 2)):
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_what_runs_apart_returns_raises_and_leaves_no_thread():
    names = []

    @on_own_thread
    def work(value: int) -> int:
        names.append(threading.current_thread().name)
        if value < 0:
            raise ValueError("negative")
        return value + 1

    assert work(1) == 2
    with pytest.raises(ValueError, match="negative"):
        work(-1)
    assert names == ["saffron-work"] * 2
    assert not [thread for thread in threading.enumerate() if thread.name == "saffron-work"]


@counts_threads
def test_who_disbands_keeps_no_helper_threads_and_gets_new_ones():
    numbers = torch.ones(1 << 18)
    counts = []

    @on_own_thread
    def work() -> None:
        torch.set_num_threads(2)
        alone = threads_now()
        for _ in range(2):
            assert numbers.sum() == 1 << 18
            counts.append(threads_become(alone + 1))
            disband()
            counts.append(threads_become(alone))
            disband()

    threads = torch.get_num_threads()
    try:
        work()
    finally:
        torch.set_num_threads(threads)
    assert counts == [True] * 4


CHILD = """
import ctypes, os, signal, sys, torch
from langchain_saffron.runtime.threads import disband

torch.set_num_threads(2)
torch.ones(1 << 18).sum()
host = ctypes.PyDLL(None)
child = os.fork() if sys.argv[1] == "python" else host.fork()
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    signal.alarm(20)
    if sys.argv[1] == "python":
        torch.ones(1 << 18).sum()
    else:
        host.PyOS_AfterFork_Child()
    disband()
    os._exit(7)
"""


@counts_threads
@pytest.mark.parametrize("host", ["python", "another"])
def test_a_forked_child_does_not_wait_for_a_team_that_stayed_behind(host):
    """Another host, such as uWSGI, tells Python of a fork only in the child."""
    ended = subprocess.run([sys.executable, "-c", CHILD, host], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "7\n"
