"""A decode step: one new row behind what is cached, for every beam of some requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from langchain_saffron.cache.prefix_forest import TokenForest
from langchain_saffron.cache.row_reads import Reads, read_rows
from langchain_saffron.cache.step_bucket import StepBucket


@dataclass(frozen=True)
class DecodeStep:
    """Rows that have everything above them in the cache, and what they read.

    Attributes:
        forest: Where they live.
        slots: int64 array [rows].
        scored: Indices of the rows whose scores are wanted.
        reads: What each request's rows read, as if no layer had a window.
        bucket: The shape that it is padded to.
    """

    forest: TokenForest
    slots: np.ndarray
    scored: Sequence[int]
    reads: list[Reads]
    bucket: StepBucket

    @classmethod
    def of(
        cls, forest: TokenForest, slots: np.ndarray, scored: Sequence[int], groups: Sequence[int]
    ) -> "DecodeStep | None":
        """A forward as a step; `None` for one that reads a prompt, scores nothing, or is too large.

        Args:
            forest: Where the rows live.
            slots: int64 array [rows]: their slots.
            scored: Indices of the rows whose scores are wanted.
            groups: How many rows each request has, in order.
        """
        rows = slots.tolist()
        own = set(rows)
        if not len(scored) or any(forest.parent(slot) in own for slot in rows):
            return None
        longest = int(forest.depth[slots].max()) + 1
        if StepBucket.around(groups, longest) is None:
            return None
        starts = np.cumsum([0, *groups]).tolist()
        reads = [read_rows(forest, slots[start:end], start, None, in_place=False) for start, end in pairwise(starts)]
        bucket = StepBucket.around(groups, max(read.count for read in reads))
        return None if bucket is None else cls(forest, slots, scored, reads, bucket)

    def write(self, into: Mapping[str, np.ndarray], windows: Mapping[str, int | None], scratch: int) -> None:
        """Write it, padded, into the arrays of `StaticInputs`.

        A row that pads is the first one again, but that its keys and values go to the scratch slot, which nobody
        reads; a request that pads reads what the first one reads. So nothing comes of padding that could be NaN where
        the rest is not.

        Args:
            into: Arrays by name, of the bucket's shape.
            windows: For every kind of layer, how far its rows see; `None` for all above them.
            scratch: The scratch slot.
        """
        count, groups = len(self.slots), len(self.reads)
        into["tokens"][:count] = [self.forest.token(slot) for slot in self.slots.tolist()]
        into["positions"][:count] = self.forest.depth[self.slots]
        into["tokens"][count:], into["positions"][count:] = into["tokens"][0], into["positions"][0]
        into["write"][:count], into["write"][count:] = self.slots, scratch
        into["keep"][: len(self.scored)] = self.scored
        into["keep"][len(self.scored) :] = 0
        members, slots = into["members"], into["slots"]
        allowed = np.zeros((*members.shape, slots.shape[1]), dtype=bool)
        places = into["places"]
        places[:] = 0
        for i, read in enumerate(self.reads):
            read.lay_out(members[i], slots[i], allowed[i])
            places[read.rows] = i * members.shape[1] + np.arange(len(read.allowed))
        members[groups:], slots[groups:], allowed[groups:] = members[0], slots[0], allowed[0]
        distance = None
        for kind, window in windows.items():
            if window is None:
                into[f"allowed {kind}"][:] = allowed
                continue
            if distance is None:
                depth = self.forest.depth
                distance = depth[self.slots[members]][:, :, None] - depth[slots][:, None, :]
            into[f"allowed {kind}"][:] = allowed & (distance < window)
