"""Decode steps by captured graphs, where the dynamic forward shows that they are right."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from langchain_saffron.cache.decode_step import DecodeStep
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.errors import ModelMemoryError
from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.models.static_step import Forward, StaticStep, StepOutputs
from langchain_saffron.runtime.memory import free_on_device

logger = logging.getLogger(__name__)

# shapes in powers of two are few; each takes its inputs' memory and some of the driver's
MOST_GRAPHS = 64


class Recording(Protocol):
    """A step that can be computed again from what its inputs hold then."""

    def replay(self) -> StepOutputs:
        """Compute it."""


# from what computes a step to its recording
Record = Callable[[Callable[[], StepOutputs]], Recording]
IsClose = Callable[[torch.Tensor, torch.Tensor], bool]


@dataclass
class StepCounts:
    """How forwards were computed.

    Attributes:
        replayed: By a graph that was there.
        captured: By the dynamic forward, after which their shape was captured.
        dynamic: By the dynamic forward alone.
    """

    replayed: int = 0
    captured: int = 0
    dynamic: int = 0


class GraphRunner:
    """Captures every shape of a decode step when it is first seen, and replays it from then on.

    A graph is used only once its scores, keys and values have been those of the dynamic forward. Where one fails, or
    they differ, the dynamic forward computes everything from then on, and a warning says why.

    Attributes:
        counts: How forwards were computed.
        failure: Why graphs are no longer used; `None` as long as they are.
    """

    def __init__(
        self,
        forward: Forward,
        pool: KeyValuePool,
        record: Record,
        is_close: IsClose,
        *,
        name: str,
        kinds: list[str],
        window: int | None,
        device: torch.device,
        dtype: torch.dtype,
        most: int | None = None,
    ) -> None:
        """Take what a step needs; nothing is captured yet.

        Args:
            forward: The model's forward.
            pool: Its keys and values.
            record: Captures.
            is_close: Whether scores are those that were expected.
            name: What warnings call the model.
            kinds: Each layer's kind of attention.
            window: The window of those that are `"sliding_attention"`.
            device: Where the model computes.
            dtype: The model's.
            most: How many graphs there may be; shapes beyond are computed by the dynamic forward.
        """
        self._forward, self._pool, self._record, self._is_close = forward, pool, record, is_close
        self._name, self._most = name, MOST_GRAPHS if most is None else most
        self._shape: dict[str, Any] = {"kinds": kinds, "window": window, "device": device, "dtype": dtype}
        self._known: dict[Any, tuple[StaticStep, Recording]] = {}
        self._generation = pool.generation
        self.counts = StepCounts()
        self.failure: str | None = None

    @property
    def graphs(self) -> int:
        """How many there are now."""
        return len(self._known)

    def run(
        self, step: DecodeStep | None, states: bool, tap: LayerTap | None, dynamic: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Compute a forward.

        Args:
            step: It as a decode step, or `None` if it is none.
            states: Whether states are wanted in place of logits.
            tap: The model's tap, if it has one; holds the states of this forward afterwards.
            dynamic: Computes the same by the dynamic forward.

        Returns:
            Logits or states [scored, …], in memory of their own.
        """
        if step is None or self.failure is not None:
            self.counts.dynamic += 1
            return dynamic()
        if self._generation != self._pool.generation:
            # what was captured would write to memory that is no longer the pool's
            self._known.clear()
        key = step.bucket, states, tap
        known = self._known.get(key)
        if known is not None:
            self.counts.replayed += 1
            static, recording = known
            static.fill(step)
            return self._taken(recording.replay(), step, tap)
        if len(self._known) >= self._most:
            self.counts.dynamic += 1
            return dynamic()
        return self._capture(key, step, states, tap, dynamic)

    def _capture(
        self,
        key: Any,
        step: DecodeStep,
        states: bool,
        tap: LayerTap | None,
        dynamic: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        expected = dynamic()
        if bool(expected.isnan().any()):
            # the request's fault or the model's: nothing to compare with
            self.counts.dynamic += 1
            return expected
        tapped = None if tap is None or tap.states is None else tap.states.clone()
        try:
            wanted = [expected, *self._pool.rows(step.slots)]
            self._reserve()
            self._generation = self._pool.generation
            static = StaticStep(self._forward, self._pool, step.bucket, states=states, tap=tap, **self._shape)
            static.fill(step)
            recording = self._record(static.run)
            # what was computed so far must not be what the graph is judged by
            self._pool.wipe(step.slots)
            scores = self._taken(recording.replay(), step, tap)
            found: list[torch.Tensor | None] = [scores, *self._pool.rows(step.slots)]
            if tapped is not None and tap is not None:
                found, wanted = [*found, tap.states], [*wanted, tapped]
            if not all(map(self._like, found, wanted)):
                raise RuntimeError("what it computes is not what the dynamic forward does")
        except Exception as error:
            self._give_up(error)
            self.counts.dynamic += 1
            return dynamic()
        self._known[key] = static, recording
        self.counts.captured += 1
        return expected

    def _reserve(self) -> None:
        """Let the pool take all of its memory, which a graph needs to lie still."""
        lacking, free = self._pool.lacking_bytes, free_on_device(self._shape["device"])
        if free is not None and lacking > free // 2:
            raise ModelMemoryError(
                f"a cache of {self._pool.capacity:,} tokens takes {lacking / 1e9:.1f} GB more, and {free / 1e9:.1f} "
                "are free: lower max_cache_tokens"
            )
        self._pool.reserve()

    def _taken(self, outputs: StepOutputs, step: DecodeStep, tap: LayerTap | None) -> torch.Tensor:
        """A step's own rows, copied out of memory that the graphs share."""
        if tap is not None and outputs.tapped is not None:
            tap.put(outputs.tapped[:, : len(step.slots)].clone())
        return outputs.scores[: len(step.scored)].clone()

    def _like(self, found: torch.Tensor | None, expected: torch.Tensor) -> bool:
        if found is None or found.shape != expected.shape:
            return False
        # a policy may forbid tokens by -inf
        forbidden = expected.isinf() & (found == expected)
        return self._is_close(found.float().masked_fill(forbidden, 0), expected.float().masked_fill(forbidden, 0))

    def _give_up(self, error: Exception) -> None:
        self._known.clear()
        self.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning(
            "the %s decodes without CUDA graphs from now on (%s); enforce_eager=True leaves them out from the start",
            self._name,
            self.failure,
        )
