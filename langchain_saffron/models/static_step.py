"""A decode step of fixed shape: the model's forward over tensors that stay where they are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from langchain_saffron.cache.attention import activate
from langchain_saffron.cache.decode_step import DecodeStep
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.cache.static_inputs import StaticInputs
from langchain_saffron.cache.step_bucket import StepBucket
from langchain_saffron.models.layer_tap import LayerTap

# the model's forward: token ids and positions [1, rows], the rows that are scored, whether states are wanted, a mask
Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class StepOutputs:
    """What a step gave, padding included; the next step of any shape may overwrite it.

    Attributes:
        scores: Logits or states [rows, …], in the order in which rows are scored.
        tapped: What the model's tap took, [1, rows, width], if it has one.
    """

    scores: torch.Tensor
    tapped: torch.Tensor | None


class StaticStep:
    """A forward that neither looks at what its inputs hold nor at how many of them are padding.

    So it can be captured once and replayed for every step of its shape.
    """

    def __init__(
        self,
        forward: Forward,
        pool: KeyValuePool,
        bucket: StepBucket,
        kinds: list[str],
        window: int | None,
        device: torch.device,
        dtype: torch.dtype,
        states: bool,
        tap: LayerTap | None,
    ) -> None:
        """Take the memory of its inputs.

        Args:
            forward: The model's.
            pool: Its keys and values; all slots of it are there, the scratch slot too.
            bucket: The shape.
            kinds: Each layer's kind of attention.
            window: The window of those that are `"sliding_attention"`.
            device: Where the model computes.
            dtype: The model's.
            states: Whether the states below the unembedding are wanted in place of logits.
            tap: The model's, if it has one.
        """
        self._forward, self._pool, self._dtype = forward, pool, dtype
        self._states, self._tap = states, tap
        self._inputs = StaticInputs(bucket, kinds, window, device)
        # nobody reads it; without one, transformers would make some, and look for padding among the tokens
        self._mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)

    def fill(self, step: DecodeStep) -> None:
        """Put a step of this shape in, by one upload."""
        self._inputs.fill(step, self._pool.scratch)

    def run(self) -> StepOutputs:
        """Compute it, one kernel after the other."""
        inputs = self._inputs
        self._pool.aim_static(inputs.write)
        with activate(inputs.plan(self._pool, self._dtype)):
            scores = self._forward(inputs.tokens, inputs.positions, inputs.keep, self._states, self._mask)
        return StepOutputs(scores, None if self._tap is None else self._tap.states)
