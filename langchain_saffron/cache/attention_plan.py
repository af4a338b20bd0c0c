"""What one forward's rows read, worked out once for all layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from langchain_saffron.cache.layer_store import LayerStore
from langchain_saffron.cache.prefix_forest import TokenForest
from langchain_saffron.cache.row_reads import Reads, read_rows
from langchain_saffron.runtime.devices import upload

ToMask = Callable[[np.ndarray], torch.Tensor]
# masks by the number of query heads that share keys: every layer asks for the same one
FoldedMasks = dict[int, torch.Tensor]

# requests with few visible slots and few rows attend together: there the calls cost more than copying the slots
BATCH_SLOTS = 512
BATCH_ROWS = 48

# oneDNN compiles a product anew for every number of slots: half a millisecond, which a step of a small model feels.
# Numbers that are multiples of this, or of a larger power of two where that is a small share, last for many steps.
EVEN_SLOTS = 64
_EVEN_SHARE_BITS = 5


def even_slots(count: int) -> int:
    """The number of slots to read in place of `count`."""
    multiple = max(EVEN_SLOTS, 1 << max(0, count.bit_length() - _EVEN_SHARE_BITS))
    return count + -count % multiple


class Pool(Protocol):
    """What the attention needs of a pool."""

    def layer(self, index: int) -> LayerStore:
        """Keys and values of a layer."""


@dataclass(frozen=True)
class Group:
    """The rows of one request, and what they read.

    Attributes:
        rows: Their places in the forward.
        prefix: A span of slots that all of them see.
        tail: The other slots that any of them sees: a span, or an int64 tensor of slots.
        mask: Additive, 0 or -inf, [rows, tail]: which of them a row sees.
        is_open: Whether that is all of them for every row.
    """

    rows: slice
    prefix: tuple[int, int]
    tail: tuple[int, int] | torch.Tensor
    mask: torch.Tensor
    is_open: bool = False
    _folded: FoldedMasks = field(default_factory=dict, repr=False, compare=False)
    _even: dict[int, "Group"] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def parts(self) -> list[slice | torch.Tensor]:
        """Prefix and tail as indices into the slots; one span where they lie side by side."""
        low, middle = self.prefix
        tail = slice(*self.tail) if isinstance(self.tail, tuple) else self.tail
        if low == middle:
            return [tail]
        if isinstance(self.tail, tuple) and self.tail[0] == middle:
            return [slice(low, self.tail[1])]
        return [slice(low, middle), tail]

    @cached_property
    def whole_mask(self) -> torch.Tensor:
        """The mask over prefix and tail, [rows, prefix + tail]."""
        return torch.nn.functional.pad(self.mask, (self.prefix[1] - self.prefix[0], 0))

    @classmethod
    def of(cls, reads: Reads, to_mask: ToMask) -> "Group":
        """What a request reads, with its mask."""
        tail = reads.tail if isinstance(reads.tail, tuple) else torch.from_numpy(reads.tail)
        return cls(reads.rows, reads.prefix, tail, to_mask(reads.allowed), bool(reads.allowed.all()))

    def even(self, slots: int) -> "Group":
        """The same, but that a tail read in place goes on over slots that no row sees, up to an even number of them.

        Args:
            slots: How many there are in the pool.
        """
        if slots not in self._even:
            self._even[slots] = self._made_even(slots)
        return self._even[slots]

    def _made_even(self, slots: int) -> "Group":
        if not isinstance(self.tail, tuple):
            return self
        last = self.parts[-1]
        assert isinstance(last, slice)
        count, high = last.stop - last.start, self.tail[1]
        more = min(even_slots(count) - count, slots - high)
        if more <= 0:
            return self
        mask = torch.nn.functional.pad(self.mask, (0, more), value=-torch.inf)
        return Group(self.rows, self.prefix, (self.tail[0], high + more), mask)

    def to(self, device: torch.device) -> "Group":
        """The same on a device."""
        tail = self.tail if isinstance(self.tail, tuple) else upload(self.tail, torch.long, device)
        return Group(self.rows, self.prefix, tail, upload(self.mask, self.mask.dtype, device), self.is_open)

    def folded_mask(self, queries_per_kv: int) -> torch.Tensor:
        """The same with the query heads of a kv head folded into the rows, [queries_per_kv · rows, prefix + tail]."""
        if queries_per_kv not in self._folded:
            self._folded[queries_per_kv] = self.whole_mask.repeat(queries_per_kv, 1)
        return self._folded[queries_per_kv]


@dataclass(frozen=True)
class Batch:
    """Several small groups, padded to the same number of rows and slots.

    Attributes:
        rows: int64 tensor [groups · rows]: their places in the forward; padding repeats a group's last.
        slots: int64 tensor [groups · slots]: what each reads; padding repeats its last.
        mask: Additive, 0 or -inf, [groups, rows, slots].
    """

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor
    _folded: FoldedMasks = field(default_factory=dict, repr=False, compare=False)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        rows, slots = (upload(index, torch.long, device) for index in (self.rows, self.slots))
        return Batch(rows, slots, upload(self.mask, self.mask.dtype, device))

    def folded_mask(self, queries_per_kv: int) -> torch.Tensor:
        """With the query heads of a kv head folded into the rows, [groups, 1, queries_per_kv · rows, slots]."""
        if queries_per_kv not in self._folded:
            self._folded[queries_per_kv] = self.mask.repeat(1, queries_per_kv, 1)[:, None]
        return self._folded[queries_per_kv]


@dataclass
class AttentionPlan:
    """One forward's attention: the groups for every kind of layer, on the CPU, and the pool that they read."""

    pool: Pool
    groups: dict[str, list[Group | Batch]]
    kinds: list[str]
    _placed: dict[tuple[str, torch.device], list[Group | Batch]] = field(default_factory=dict)

    def of_layer(self, index: int, device: torch.device) -> list[Group | Batch]:
        """The groups of a layer, on its device; all layers there share them."""
        key = (self.kinds[index], device)
        if key not in self._placed:
            groups = self.groups[key[0]]
            self._placed[key] = groups if device.type == "cpu" else [group.to(device) for group in groups]
        return self._placed[key]


def plan_attention(
    forest: TokenForest,
    pool: Pool,
    slots: np.ndarray,
    groups: Sequence[int],
    kinds: list[str],
    window: int | None,
    to_mask: ToMask,
    even: bool = False,
) -> AttentionPlan:
    """Work out what a forward reads.

    Args:
        forest: Where the rows live.
        pool: Where their keys and values lie.
        slots: int array [rows]: their slots.
        groups: How many rows each request has, in order.
        kinds: Each layer's kind of attention.
        window: The window of those that are `"sliding_attention"`.
        to_mask: From allowed [rows, slots] to an additive mask in the model's dtype.
        even: Whether what attends together reads an even number of slots each.
    """
    starts = np.cumsum([0, *groups]).tolist()

    def of(kind: str) -> list[Group | Batch]:
        near = window if kind == "sliding_attention" else None
        reads = [read_rows(forest, slots[start:end], start, near) for start, end in pairwise(starts)]
        return _merge_small(reads, to_mask, even)

    return AttentionPlan(pool, {kind: of(kind) for kind in sorted(set(kinds))}, kinds)


def _merge_small(reads: list[Reads], to_mask: ToMask, even: bool) -> list[Group | Batch]:
    """Put small groups of similar size together, so that the calls of a layer do not grow with the requests."""
    alike: dict[int, list[Reads]] = {}
    merged: list[Group | Batch] = []
    for read in reads:
        if read.count <= BATCH_SLOTS and len(read.allowed) < BATCH_ROWS:
            # by powers of two: padding never doubles the work
            alike.setdefault(read.count.bit_length(), []).append(read)
        else:
            merged.append(Group.of(read, to_mask))
    for members in alike.values():
        merged.append(Group.of(members[0], to_mask) if len(members) == 1 else _batch(members, to_mask, even))
    return merged


def _batch(members: list[Reads], to_mask: ToMask, even: bool) -> Batch:
    rows = max(len(read.allowed) for read in members)
    visible = max(read.count for read in members)
    visible = even_slots(visible) if even else visible
    places = np.empty((len(members), rows), dtype=np.int64)
    slots = np.empty((len(members), visible), dtype=np.int64)
    allowed = np.zeros((len(members), rows, visible), dtype=bool)
    for i, read in enumerate(members):
        read.lay_out(places[i], slots[i], allowed[i])
    return Batch(torch.from_numpy(places.reshape(-1)), torch.from_numpy(slots.reshape(-1)), to_mask(allowed))
