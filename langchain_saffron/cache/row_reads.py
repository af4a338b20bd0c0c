"""What the rows of one request read: the spans of slots, and who sees what of them."""

from dataclasses import dataclass

import numpy as np

from langchain_saffron.cache.attention_mask import SlotColumns, few_holes, paths_above, seen_columns
from langchain_saffron.cache.prefix_forest import TokenForest


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


def read_rows(forest: TokenForest, slots: np.ndarray, start: int, window: int | None, in_place: bool = True) -> Reads:
    """What one request's rows read.

    Args:
        forest: Where they live.
        slots: int array [rows]: their slots.
        start: The place of the first of them in the forward.
        window: How far a row sees; `None` for all above it.
        in_place: Whether it is read where it lies, a few strangers in between included.
    """
    above = paths_above(forest, slots)
    shared = _common(list(above.values()))
    seen_by_all, oldest = shared, 0
    if window is not None:
        deepest, shallowest = int(forest.depth[slots].max()), int(forest.depth[slots].min())
        # what the deepest row no longer sees cannot be read by all; what the shallowest misses, by nobody
        oldest = max(0, shallowest - window + 1)
        seen_by_all = shared[max(0, deepest - window + 1) :]
    run = _longest_run(seen_by_all)
    # the run lies in what all paths begin with: a long prompt is looked through once, not for every row
    own = {i: path[max(oldest, len(shared)) :] for i, path in above.items()}
    rest = _outside(np.unique(np.concatenate([slots, _outside(shared[oldest:], run), *own.values()])), run)
    prefix, tail = _spans(seen_by_all, run, rest) if in_place else (run, SlotColumns(rest))
    upper = _outside(shared[oldest:], prefix)
    allowed = seen_columns(forest, slots, {i: np.concatenate([upper, path]) for i, path in own.items()}, tail)
    if window is not None:
        allowed &= tail.distances(forest, slots) < window
    return Reads(slice(start, start + len(slots)), prefix, tail.slots, allowed)


def _spans(seen_by_all: np.ndarray, run: tuple[int, int], rest: np.ndarray) -> tuple[tuple[int, int], SlotColumns]:
    """A prefix that all rows see, and the tail: one span if they can be, or two, or else the tail's slots.

    Args:
        seen_by_all: Slots, in the order of a path.
        run: The longest run in it.
        rest: The other slots that are to be read, ascending.
    """
    low, high = run
    before = int(np.searchsorted(rest, low))
    if low == high or not before:
        return run, SlotColumns.of(rest, beside=run)
    begins, ends = np.insert(rest, before, low), np.insert(rest + 1, before, high)
    count, bottom, top = len(rest) + high - low, int(begins[0]), int(ends[-1])
    if few_holes(top - bottom, count):
        # the run lies amid the rest: a mask over all of it
        return (0, 0), SlotColumns((bottom, top))
    # what many prompts begin with may lie far from where this one goes on
    cut = int(np.argmax(begins[1:] - ends[:-1])) + 1
    head, end, begin = rest[:cut], int(ends[cut - 1]), int(begins[cut])
    is_run = cut <= before and end - bottom == cut
    if is_run and few_holes(top - begin, count - cut) and bool(np.isin(head, seen_by_all).all()):
        return (bottom, end), SlotColumns((begin, top))
    return run, SlotColumns.of(rest, beside=run)


def _outside(slots: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """Those of some slots that do not lie in a span."""
    return slots[(slots < span[0]) | (slots >= span[1])]


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
