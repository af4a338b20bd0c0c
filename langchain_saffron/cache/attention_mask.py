"""Who may attend to whom: every new row sees its ancestors in the trie and itself."""

from dataclasses import dataclass

import numpy as np
import torch

from langchain_saffron.cache.prefix_forest import NO_PARENT, TokenForest

# reading a span in place beats copying as long as few strangers lie in it
SPAN_SLACK = 1.5
# and one span beats two as long as they are at most so many, or this share of all that is read
FEW_HOLES = 16
HOLES_SHARE = 1 / 5


@dataclass(frozen=True)
class SlotColumns:
    """The slots that a mask speaks of, one a column.

    Attributes:
        slots: A span `(low, high)` that is read in place, or an int array, ascending, that is gathered.
    """

    slots: np.ndarray | tuple[int, int]

    @classmethod
    def of(cls, slots: np.ndarray, beside: tuple[int, int] = (0, 0)) -> "SlotColumns":
        """A span where few strangers lie between `slots` (ascending), and nothing of the span `beside`.

        Where it can, it begins where that ends, so that both together are one span.
        """
        low, high = int(slots[0]), int(slots[-1]) + 1
        begin, end = beside
        if begin < end <= low and (
            few_holes(high - begin, len(slots) + end - begin) or high - end <= SPAN_SLACK * len(slots)
        ):
            return cls((end, high))
        in_place = high - low <= SPAN_SLACK * len(slots) and not (low < end and begin < high)
        return cls((low, high) if in_place else slots)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.slots[1] - self.slots[0] if isinstance(self.slots, tuple) else len(self.slots)

    def places(self, slots: np.ndarray) -> np.ndarray:
        """The columns of some of the slots."""
        return slots - self.slots[0] if isinstance(self.slots, tuple) else np.searchsorted(self.slots, slots)

    def distances(self, forest: TokenForest, rows: np.ndarray) -> np.ndarray:
        """How much deeper each row lies than each column's slot: int [rows, columns]."""
        shown = np.arange(*self.slots) if isinstance(self.slots, tuple) else self.slots
        return forest.depth[rows][:, None] - forest.depth[shown][None, :]


def few_holes(span: int, wanted: int) -> bool:
    """Whether so many slots are to be read where they lie, as one span, for those of them that are wanted."""
    return span - wanted <= max(FEW_HOLES, HOLES_SHARE * span)


@dataclass(frozen=True)
class LayerMasks:
    """Which kinds of attention a model's layers use.

    Attributes:
        window: Sliding window in tokens, or `None`.
        kinds: The values of `config.layer_types` in use: one kind takes a plain mask, several a dict.
    """

    window: int | None
    kinds: tuple[str, ...] = ("full_attention",)


@dataclass(frozen=True)
class Visibility:
    """What one forward reads: the slots, and which of them each row may see.

    Attributes:
        read: A span `(low, high)` of slots, or an int array of slots.
        allowed: bool array [rows, visible slots].
        distance: int array [rows, visible slots] of depth differences, only where a window needs it.
    """

    read: np.ndarray | tuple[int, int]
    allowed: np.ndarray
    distance: np.ndarray | None

    def masks(
        self, layers: LayerMasks, dtype: torch.dtype, device: torch.device, additive: bool
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The 4D masks [1, 1, rows, visible slots] in the form that the model takes.

        Args:
            layers: The model's kinds of attention.
            dtype: The model's dtype, for additive masks.
            device: Where the model runs.
            additive: Whether the attention function adds the mask (eager) or reads booleans (sdpa).
        """
        made = {}
        for kind in layers.kinds:
            allowed = self.allowed
            if kind == "sliding_attention" and layers.window is not None:
                assert self.distance is not None
                allowed = allowed & (self.distance < layers.window)
            mask = torch.from_numpy(allowed)[None, None].to(device, non_blocking=True)
            if additive:
                lowest = torch.finfo(dtype).min
                mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, lowest)
            made[kind] = mask
        return made if len(made) > 1 else next(iter(made.values()))


def visible_rows(forest: TokenForest, rows: np.ndarray, windowed: bool) -> Visibility:
    """Work out what the new `rows` read.

    Args:
        forest: The trie that the rows live in.
        rows: int array [rows] of distinct slots.
        windowed: Whether distances are needed for a sliding window.
    """
    above = paths_above(forest, rows)
    columns = SlotColumns.of(np.unique(np.concatenate([rows, *above.values()])))
    allowed = seen_columns(forest, rows, above, columns)
    distance = columns.distances(forest, rows) if windowed else None
    return Visibility(columns.slots, allowed, distance)


def paths_above(forest: TokenForest, rows: np.ndarray) -> dict[int, np.ndarray]:
    """The slots above each row whose parent is not among `rows` itself, by the row's index."""
    own = set(rows.tolist())
    parents = [forest.parent(slot) for slot in rows.tolist()]
    empty = np.empty(0, dtype=np.int64)
    return {i: forest.path(p) if p != NO_PARENT else empty for i, p in enumerate(parents) if p not in own}


def seen_columns(
    forest: TokenForest, rows: np.ndarray, above: dict[int, np.ndarray], columns: "SlotColumns"
) -> np.ndarray:
    """Who sees what: bool [rows, columns].

    Args:
        forest: Where the rows live.
        rows: int array [rows] of slots.
        above: What `paths_above` gave, or the part of it that is shown.
        columns: The slots that are shown.
    """
    index = {slot: i for i, slot in enumerate(rows.tolist())}
    allowed = np.zeros((len(rows), columns.count), dtype=bool)
    own = columns.places(rows)
    # a parent's row is complete before its children copy it, whatever order the rows come in
    for i in np.argsort(forest.depth[rows], kind="stable").tolist():
        if i in above:
            allowed[i, columns.places(above[i])] = True
        else:
            allowed[i] = allowed[index[forest.parent(int(rows[i]))]]
        allowed[i, own[i]] = True
    return allowed
