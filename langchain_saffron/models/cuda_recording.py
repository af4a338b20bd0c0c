"""A CUDA graph of a step: its kernels launched as one."""

import threading
from collections.abc import Callable
from typing import Any

import torch

from langchain_saffron.models.static_step import StepOutputs
from langchain_saffron.runtime.garbage import no_collections
from langchain_saffron.runtime.host_reads import NoHostReads

# torch allows one capture at a time in a process
_capturing = threading.Lock()
# libraries choose their kernels, and take their workspaces, in the first runs
WARM_UPS = 2


class CudaRecording:
    """A step, captured; what it writes and reads lies where it lay then.

    The form is that of torch's documentation ("CUDA semantics", CUDA graphs): a warm-up on a side stream, then the
    capture on the same one.
    """

    def __init__(self, run: Callable[[], StepOutputs], device: torch.device, memory: Any, stream: Any) -> None:
        """Capture a step.

        Args:
            run: Computes it from its static inputs, which are filled.
            device: Where.
            memory: A handle of `torch.cuda.graph_pool_handle`, which graphs that never run at once may share.
            stream: The side stream, the same for all that share the memory.

        Raises:
            UnsupportedModelError: The step reads from the device.
            RuntimeError: It does something else that cannot be captured.
        """
        with _capturing, torch.cuda.device(device):
            current = torch.cuda.current_stream()
            try:
                stream.wait_stream(current)
                with torch.cuda.stream(stream), NoHostReads():
                    for _ in range(WARM_UPS):
                        run()
                current.wait_stream(stream)
                self._graph = torch.cuda.CUDAGraph()
                # another engine's thread may allocate meanwhile, which does not concern this capture; what the
                # collector would free does
                with (
                    no_collections(),
                    torch.cuda.graph(self._graph, pool=memory, stream=stream, capture_error_mode="thread_local"),
                ):
                    self._outputs = run()
            finally:
                # where a capture fails, torch leaves the side stream current
                torch.cuda.set_stream(current)

    def replay(self) -> StepOutputs:
        """Compute it again, from what its inputs hold now."""
        self._graph.replay()
        return self._outputs
