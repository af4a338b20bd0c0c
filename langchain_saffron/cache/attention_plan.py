"""What one forward's rows read, worked out once for all layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from langchain_saffron.cache.attention_mask import SlotColumns, few_holes, paths_above, seen_columns
from langchain_saffron.cache.layer_store import LayerStore
from langchain_saffron.cache.prefix_forest import TokenForest
from langchain_saffron.runtime.devices import upload

ToMask = Callable[[np.ndarray], torch.Tensor]
# masks by the number of query heads that share keys: every layer asks for the same one
FoldedMasks = dict[int, torch.Tensor]

# requests with few visible slots and few rows attend together: there the calls cost more than copying the slots
BATCH_SLOTS = 512
BATCH_ROWS = 48


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


@dataclass(frozen=True)
class Reads:
    """A group before its mask is made.

    Attributes:
        rows: Their places in the forward.
        prefix: A span of slots that all of them see.
        tail: The other slots: a span, or an int array.
        allowed: bool array [rows, tail]: who sees what of the tail.
    """

    rows: slice
    prefix: tuple[int, int]
    tail: tuple[int, int] | np.ndarray
    allowed: np.ndarray

    @property
    def count(self) -> int:
        """Slots of prefix and tail."""
        return self.prefix[1] - self.prefix[0] + self.allowed.shape[1]

    def group(self, to_mask: ToMask) -> Group:
        """The same with its mask."""
        tail = self.tail if isinstance(self.tail, tuple) else torch.from_numpy(self.tail)
        return Group(self.rows, self.prefix, tail, to_mask(self.allowed), bool(self.allowed.all()))

    def lay_out(self, places: np.ndarray, slots: np.ndarray, allowed: np.ndarray) -> None:
        """Write it into arrays that may be longer; padding repeats the last row and the last slot.

        Args:
            places: int64 array [rows]: takes the rows' places in the forward.
            slots: int64 array [slots]: takes what they read.
            allowed: bool array [rows, slots], all `False`: takes who sees what.
        """
        (low, high), mine = self.prefix, len(self.allowed)
        tail = np.arange(*self.tail) if isinstance(self.tail, tuple) else self.tail
        places[:] = np.minimum(np.arange(len(places)), mine - 1) + self.rows.start
        slots[:] = tail[-1]
        slots[: high - low] = np.arange(low, high)
        slots[high - low : self.count] = tail
        allowed[:mine, : high - low] = True
        allowed[:mine, high - low : self.count] = self.allowed
        # a padding row is the last one again: the same place gets the same value
        allowed[mine:] = allowed[mine - 1]


def plan_attention(
    forest: TokenForest,
    pool: Pool,
    slots: np.ndarray,
    groups: Sequence[int],
    kinds: list[str],
    window: int | None,
    to_mask: ToMask,
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
    """
    starts = np.cumsum([0, *groups]).tolist()

    def of(kind: str) -> list[Group | Batch]:
        near = window if kind == "sliding_attention" else None
        reads = [read_rows(forest, slots[start:end], start, near) for start, end in pairwise(starts)]
        return _merge_small(reads, to_mask)

    return AttentionPlan(pool, {kind: of(kind) for kind in sorted(set(kinds))}, kinds)


def read_rows(forest: TokenForest, slots: np.ndarray, start: int, window: int | None, in_place: bool = True) -> Reads:
    """What one request's rows read.

    Args:
        forest: Where they live.
        slots: int array [rows]: their slots.
        start: The place of the first of them in the forward.
        window: How far a row sees; `None` for all above it.
        in_place: Whether it is read where it lies, strangers in between included.
    """
    above = paths_above(forest, slots)
    shared = _common(list(above.values()))
    seen_by_all, oldest = shared, 0
    if window is not None:
        deepest, shallowest = int(forest.depth[slots].max()), int(forest.depth[slots].min())
        # what the deepest row no longer sees cannot be read by all; what the shallowest misses, by nobody
        oldest = max(0, shallowest - window + 1)
        seen_by_all = shared[max(0, deepest - window + 1) :]
    low, high = _longest_run(seen_by_all)
    # the run lies in what all paths begin with: a long prompt is looked through once, not for every row
    outside = (shared < low) | (shared >= high)
    own = [path[max(oldest, len(shared)) :] for path in above.values()]
    rest = np.unique(np.concatenate([slots, shared[oldest:][outside[oldest:]], *own]))
    rest = rest[(rest < low) | (rest >= high)]
    if in_place and rest[0] < low:
        bottom, top = int(rest[0]), max(high, int(rest[-1]) + 1)
        if few_holes(top - bottom, len(rest) + high - low):
            # the run lies amid the rest: one span, and a mask over all of it
            low, high, outside = 0, 0, np.ones_like(outside)
            rest = np.arange(bottom, top)
    upper = shared[oldest:][outside[oldest:]]
    seen = {i: np.concatenate([upper, path]) for i, path in zip(above, own, strict=True)}
    tail = SlotColumns.of(rest, beside=(low, high)) if in_place else SlotColumns(rest)
    allowed = seen_columns(forest, slots, seen, tail)
    if window is not None:
        allowed &= tail.distances(forest, slots) < window
    return Reads(slice(start, start + len(slots)), (low, high), tail.slots, allowed)


def _merge_small(reads: list[Reads], to_mask: ToMask) -> list[Group | Batch]:
    """Put small groups of similar size together, so that the calls of a layer do not grow with the requests."""
    alike: dict[int, list[Reads]] = {}
    merged: list[Group | Batch] = []
    for read in reads:
        if read.count <= BATCH_SLOTS and len(read.allowed) < BATCH_ROWS:
            # by powers of two: padding never doubles the work
            alike.setdefault(read.count.bit_length(), []).append(read)
        else:
            merged.append(read.group(to_mask))
    for members in alike.values():
        merged.append(members[0].group(to_mask) if len(members) == 1 else _batch(members, to_mask))
    return merged


def _batch(members: list[Reads], to_mask: ToMask) -> Batch:
    rows = max(len(read.allowed) for read in members)
    visible = max(read.count for read in members)
    places = np.empty((len(members), rows), dtype=np.int64)
    slots = np.empty((len(members), visible), dtype=np.int64)
    allowed = np.zeros((len(members), rows, visible), dtype=bool)
    for i, read in enumerate(members):
        read.lay_out(places[i], slots[i], allowed[i])
    return Batch(torch.from_numpy(places.reshape(-1)), torch.from_numpy(slots.reshape(-1)), to_mask(allowed))


def _common(paths: list[np.ndarray]) -> np.ndarray:
    """The slots that all paths begin with."""
    length = min(len(path) for path in paths)
    first = paths[0][:length]
    for path in paths[1:]:
        differs = np.flatnonzero(first != path[: len(first)])
        if len(differs):
            first = first[: differs[0]]
    return first


def _longest_run(slots: np.ndarray) -> tuple[int, int]:
    """The longest run of consecutive slots in a path, as a span; empty for an empty path."""
    if not len(slots):
        return 0, 0
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    edges = np.concatenate([[0], breaks, [len(slots)]])
    longest = int(np.argmax(np.diff(edges)))
    begin, end = int(edges[longest]), int(edges[longest + 1])
    return int(slots[begin]), int(slots[end - 1]) + 1
