"""How a capture is asked for: with torch's own signatures, on a machine that has no GPU. `test_gpu.py` captures."""

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

    def __init__(self) -> None:
        self.events: list[str] = []

    def wait_stream(self, other: Any) -> None:
        self.events.append("side waits" if other is not self else "waits for itself")

    def replay(self) -> None:
        self.events.append("replay")


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py captures")
def test_a_capture_follows_torchs_form(monkeypatch: pytest.MonkeyPatch):
    side, main = Log(), Log()
    main.events = side.events
    current = [main]

    @contextmanager
    def stream(one: Log) -> Any:
        current.append(one)
        yield
        current.pop()

    @contextmanager
    def graph(*given: Any, **named: Any) -> Any:
        asked = BIND(*given, **named).arguments
        assert asked["pool"] == "memory"
        assert asked["stream"] is side
        assert asked["capture_error_mode"] == "thread_local"
        side.events.append("begin")
        with stream(asked["stream"]):
            yield
        side.events.append("end")

    for name, value in {
        "device": lambda device: stream(current[-1]),
        "current_stream": lambda: current[-1],
        "stream": stream,
        "CUDAGraph": lambda: side,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def run() -> StepOutputs:
        assert current[-1] is side
        side.events.append("run")
        return StepOutputs(torch.zeros(1), None)

    recording = CudaRecording(run, torch.device("cuda:0"), "memory", side)
    assert side.events == ["side waits", *["run"] * WARM_UPS, "side waits", "begin", "run", "end"]
    assert recording.replay() is recording.replay()
    assert side.events[-2:] == ["replay", "replay"]
