"""The inputs of a decode step of fixed shape: one block of memory on the device, filled by one upload."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from langchain_saffron.cache.attention_plan import Batch, Pool
from langchain_saffron.cache.decode_step import DecodeStep
from langchain_saffron.cache.static_plan import StaticPlan
from langchain_saffron.cache.step_bucket import StepBucket
from langchain_saffron.runtime.devices import page_locked


class StaticInputs:
    """Tensors that stay where they are; what is in them changes from step to step.

    Attributes:
        tokens: int64 tensor [1, rows].
        positions: int64 tensor [1, rows].
        write: int64 tensor [rows]: the slots of their keys and values.
        keep: int64 tensor [rows]: of which rows scores are wanted, in order; padding repeats the first row.
    """

    def __init__(self, bucket: StepBucket, kinds: list[str], window: int | None, device: torch.device) -> None:
        """Take the memory.

        Args:
            bucket: The shape.
            kinds: Each layer's kind of attention.
            window: The window of those that are `"sliding_attention"`.
            device: Where the model computes.
        """
        self._bucket, self._kinds = bucket, kinds
        self._windows = {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}
        per_group = bucket.groups, bucket.group_rows
        rows = dict.fromkeys(("tokens", "positions", "write", "keep", "places"), (bucket.rows,))
        # eight bytes first: a view needs its own alignment
        integers = {**rows, "members": per_group, "slots": (bucket.groups, bucket.visible)}
        masks = {f"allowed {kind}": (*per_group, bucket.visible) for kind in self._windows}
        self._spans: dict[str, tuple[int, int, tuple[int, ...], type]] = {}
        end = 0
        for shapes, dtype in ((integers, np.int64), (masks, np.bool_)):
            for name, shape in shapes.items():
                begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
                self._spans[name] = begin, end, shape, dtype
        self._block = torch.zeros(end, dtype=torch.uint8, device=device)
        views = {
            name: self._block[begin:end].view(torch.int64 if dtype is np.int64 else torch.bool).view(shape)
            for name, (begin, end, shape, dtype) in self._spans.items()
        }
        self.tokens, self.positions = views["tokens"][None], views["positions"][None]
        self.write, self.keep = views["write"], views["keep"]
        self._views = views

    def fill(self, step: DecodeStep, scratch: int) -> None:
        """Put a step of this shape in, without waiting for the device.

        Args:
            step: The step.
            scratch: The slot that padding writes to.
        """
        # new memory every time: what was sent last may still be on its way
        block = page_locked(len(self._block), self._block.device)
        step.write(self._arrays(block.numpy()), self._windows, scratch)
        self._block.copy_(block, non_blocking=True)

    def plan(self, pool: Pool, dtype: torch.dtype) -> StaticPlan:
        """What a forward over these inputs reads; the masks are made on the device, anew for every forward.

        Args:
            pool: Where keys and values lie.
            dtype: Of the masks: the model's.
        """
        members, slots = self._views["members"].view(-1), self._views["slots"].view(-1)
        batches = {}
        for kind in self._windows:
            allowed = self._views[f"allowed {kind}"]
            mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
            batches[kind] = Batch(members, slots, mask.masked_fill_(~allowed, -torch.inf))
        return StaticPlan(pool, batches, self._kinds, self._views["places"])

    def _arrays(self, block: np.ndarray) -> Mapping[str, np.ndarray]:
        return {
            name: block[begin:end].view(dtype).reshape(shape)
            for name, (begin, end, shape, dtype) in self._spans.items()
        }
