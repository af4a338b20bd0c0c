"""What the rows of a forward see of the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from langchain_saffron.cache.attention import activate
from langchain_saffron.cache.attention_plan import AttentionPlan
from langchain_saffron.cache.kv_pool import KeyValuePool


@dataclass(frozen=True)
class ForwardContext:
    """What the rows of one forward attend to; holds for any number of forwards over them.

    Attributes:
        slots: Of the rows, int64 [rows].
        plan: Where the tree's own attention runs, what it reads.
        read: Otherwise the slots that the rows read, as `KeyValuePool.aim` takes them.
        masks: And the masks for the model.
    """

    slots: np.ndarray
    plan: AttentionPlan | None = None
    read: np.ndarray | tuple[int, int] | None = None
    masks: Any = None

    @contextmanager
    def over(self, pool: KeyValuePool) -> Iterator[Any]:
        """Aim the pool at the rows, and give the masks for the model."""
        pool.aim(self.slots, self.read)
        with nullcontext() if self.plan is None else activate(self.plan):
            yield self.masks
