"""Threads beside other programs: how many are taken, when they are taken again, and what is said."""

import subprocess
import sys
import time

import pytest
import torch

from langchain_saffron.runtime import contention
from langchain_saffron.runtime.contention import ContentionWatch, Usage


@pytest.fixture(autouse=True)
def spinning(monkeypatch: pytest.MonkeyPatch):
    """Four threads that wait actively, whatever this machine has, and a clock that runs only when told."""
    monkeypatch.delenv(contention.VARIABLE, raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Cores:
    """Four cores, used by others as a test says, and by this process wholly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.by_all, self.by_this, self.read = 100.0, 0.0, 0.0, 0
        monkeypatch.setattr(contention.time, "monotonic", lambda: self.at)

    def pass_time(self, seconds: float, by_others: float) -> None:
        self.at += seconds
        self.by_this += seconds * 3
        self.by_all += seconds * (3 + by_others)

    def __call__(self) -> Usage:
        self.read += 1
        return Usage(self.at, 4, self.by_all, self.by_this)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Cores:
    return Cores(monkeypatch)


def threads_after(watch: ContentionWatch, cores: Cores, seconds: float, by_others: float) -> int:
    cores.pass_time(seconds, by_others)
    watch.look()
    return torch.get_num_threads()


def test_it_takes_what_is_free_says_so_once_and_takes_the_rest_again_later(cores: Cores, caplog):
    watch = ContentionWatch(True, cores)
    watch.look()
    assert threads_after(watch, cores, 0.4, by_others=0.2) == 4
    assert not caplog.records
    assert threads_after(watch, cores, 0.4, by_others=2.0) == 2
    assert "other programs use 2.0 of 4 cores: the engine computes on 2 threads instead of 4" in caplog.text
    assert threads_after(watch, cores, 0.4, by_others=9.0) == 1
    # a pause of the others is not their end
    assert [threads_after(watch, cores, 0.4, by_others=0.0) for _ in range(2)] == [1, 1]
    assert threads_after(watch, cores, 0.4, by_others=4.0) == 1
    assert [threads_after(watch, cores, 0.4, by_others=0.0) for _ in range(3)] == [1, 1, 4]
    assert len(caplog.records) == 1


def test_it_looks_now_and_then_only_and_trusts_no_long_past(cores: Cores):
    watch = ContentionWatch(True, cores)
    for _ in range(100):
        cores.pass_time(0.01, by_others=4.0)
        watch.look()
    assert cores.read == 4
    assert torch.get_num_threads() == 1
    watch.close()
    assert torch.get_num_threads() == 4
    other = ContentionWatch(True, cores)
    other.look()
    assert threads_after(other, cores, 60.0, by_others=4.0) == 4


@pytest.mark.parametrize("why", ["an accelerator computes", "waiting is passive", "one thread"])
def test_there_may_be_nothing_to_watch(cores: Cores, monkeypatch: pytest.MonkeyPatch, why: str):
    if why == "waiting is passive":
        monkeypatch.setenv(contention.VARIABLE, "passive")
    if why == "one thread":
        torch.set_num_threads(1)
    expected = torch.get_num_threads()
    watch = ContentionWatch(why != "an accelerator computes", cores)
    for _ in range(5):
        assert threads_after(watch, cores, 1.0, by_others=4.0) == expected
    assert cores.read <= 1


def test_a_program_that_computes_beside_is_seen_and_what_this_one_does_is_not():
    before = Usage.now()
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        pass
    alone = Usage.now()
    assert alone.cores >= 1
    assert 0.02 < alone.by_this - before.by_this < 1.2
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.5)
        began = Usage.now()
        time.sleep(1.0)
        ended = Usage.now()
        busy.kill()
    by_others = (ended.by_all - began.by_all) - (ended.by_this - began.by_this)
    assert by_others > 0.2
    assert ended.by_this - began.by_this < 0.5
