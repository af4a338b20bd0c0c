"""What stands in for a CUDA graph on a CPU: the same step run again, held to what a graph is held to."""

from collections.abc import Callable
from typing import ClassVar

from langchain_saffron.cache import KeyValuePool
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.static_step import StepOutputs
from langchain_saffron.runtime.host_reads import NoHostReads


class EagerRecording:
    """Runs a step without a look at its tensors, and gives its outputs in the same memory every time.

    As graphs do that share memory, it destroys what the others gave; and it fails where the pool's memory has moved
    since it was made.
    """

    _all: ClassVar[list["EagerRecording"]] = []

    def __init__(self, run: Callable[[], StepOutputs], pool: KeyValuePool) -> None:
        self._run, self._pool, self._generation = run, pool, pool.generation
        with NoHostReads():
            run()
            self._outputs = run()
        self._all.append(self)

    def replay(self) -> StepOutputs:
        """Compute it from what its inputs hold now."""
        assert self._pool.generation == self._generation, "a graph would write to memory that was given back"
        for other in self._all:
            other._outputs.scores.fill_(float("nan"))
        with NoHostReads():
            outputs = self._run()
        self._outputs.scores.copy_(outputs.scores)
        return StepOutputs(self._outputs.scores, outputs.tapped)


def capture_eagerly(decoder: TrieDecoder) -> str | None:
    """Let a decoder on a CPU compute its steps as captured ones are computed."""
    return decoder.capture_steps(lambda run: EagerRecording(run, decoder.pool))
