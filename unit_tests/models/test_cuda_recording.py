"""How a capture is asked for: with torch's own signatures, on a machine that has no GPU. `test_gpu.py` captures."""

import gc
import inspect
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from langchain_saffron.models.cuda_recording import WARM_UPS, CudaRecording
from langchain_saffron.models.static_step import StepOutputs

BIND = inspect.signature(torch.cuda.graph).bind


class Log:
    """What happened, in order; stands in for a stream and for a graph."""

    def __init__(self, is_side: bool) -> None:
        self.is_side = is_side
        self.events: list[str] = []

    def wait_stream(self, other: Any) -> None:
        assert other is not self
        self.events.append("side waits" if self.is_side else "main waits")

    def replay(self) -> None:
        self.events.append("replay")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Log]:
    """Stands in for CUDA's streams: the current one comes last, behind the main one and the side stream."""
    side, main = Log(True), Log(False)
    main.events = side.events
    current = [side, main, main]

    @contextmanager
    def stream(one: Log) -> Any:
        current.append(one)
        yield
        current.pop()

    @contextmanager
    def graph(*given: Any, **named: Any) -> Any:
        asked = BIND(*given, **named).arguments
        assert asked["pool"] == "memory"
        assert asked["capture_error_mode"] == "thread_local"
        side.events.append("begin")
        current.append(asked["stream"])
        assert not gc.isenabled()
        # a failure leaves it current, as torch does
        yield
        current.pop()
        side.events.append("end")

    for name, value in {
        "device": lambda device: stream(current[-1]),
        "current_stream": lambda: current[-1],
        "set_stream": current.append,
        "stream": stream,
        "CUDAGraph": lambda: side,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return current


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py captures")
def test_a_capture_follows_torchs_form(streams: list[Log]):
    side = streams[0]

    def run() -> StepOutputs:
        assert streams[-1] is side
        side.events.append("run")
        return StepOutputs(torch.zeros(1), None)

    recording = CudaRecording(run, torch.device("cuda:0"), "memory", side)
    assert side.events == ["side waits", *["run"] * WARM_UPS, "main waits", "begin", "run", "end"]
    assert recording.replay() is recording.replay()
    assert side.events[-2:] == ["replay", "replay"]
    assert gc.isenabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py captures")
def test_one_that_fails_leaves_the_stream_as_it_was(streams: list[Log]):
    side, main = streams[:2]

    def run() -> StepOutputs:
        if "begin" in side.events:
            raise RuntimeError("operation not permitted when stream is capturing")
        return StepOutputs(torch.zeros(1), None)

    with pytest.raises(RuntimeError, match="capturing"):
        CudaRecording(run, torch.device("cuda:0"), "memory", side)
    assert streams[-1] is main
    assert gc.isenabled()
