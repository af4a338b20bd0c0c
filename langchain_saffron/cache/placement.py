"""Where a prompt goes in a pool that is full of kept ones: what has to move so that it lies together."""

from dataclasses import dataclass

import numpy as np

from langchain_saffron.cache.free_slots import halves

# one span beats two, and moving, as long as the strangers in it are at most so many, or this share of all that is read
FEW_HOLES = 16
HOLES_SHARE = 1 / 5


def few_holes(span: int, wanted: int) -> bool:
    """Whether so many slots are to be read where they lie, as one span, for those of them that are wanted."""
    return span - wanted <= max(FEW_HOLES, HOLES_SHARE * span)


@dataclass(frozen=True)
class Path:
    """The beginning of a prompt, as far as it is there already.

    Attributes:
        slots: int64 array: where it lies.
        stays: How many of its first nodes stay where they are: others work with them, or they lie in one run.
    """

    slots: np.ndarray
    stays: int

    @classmethod
    def of(cls, nodes: list[int], shared: int) -> "Path":
        """What of it stays.

        Args:
            nodes: Where it lies.
            shared: How many of its first nodes others work with.
        """
        slots = np.array(nodes, dtype=np.int64)
        breaks = np.flatnonzero(np.diff(slots) != 1)
        return cls(slots, max(shared, int(breaks[0]) + 1 if len(breaks) else len(nodes)))

    @property
    def head(self) -> np.ndarray:
        """What stays."""
        return self.slots[: self.stays]

    @property
    def tail(self) -> np.ndarray:
        """What may move, to lie before the rest of the prompt."""
        return self.slots[self.stays :]

    def reads_well(self, start: int, count: int) -> bool:
        """Whether the prompt is read as one span or two, where its rest and its beams lie in a run.

        Args:
            start: Where that begins.
            count: How long the rest is.
        """
        last = start + max(count, 1) - 1
        for part in (self.tail, self.slots):
            there = np.append(part, (start, last))
            if few_holes(int(there.max() - there.min()) + 1, len(part) + last + 1 - start):
                return True
        return False


@dataclass(frozen=True)
class Placement:
    """Where a prompt is put.

    Attributes:
        start: Its first slot, or that of the tail which it goes on from.
        sources: int64 array: slots whose content moves.
        targets: int64 array: where to; none of them is in use by anything that stays.
    """

    start: int
    sources: np.ndarray
    targets: np.ndarray


def make_way(free: np.ndarray, busy: np.ndarray, path: Path, count: int, room: int) -> Placement | None:
    """The place where a prompt lies together for which the fewest slots have to move.

    Nothing that others work with moves. What moves is at most what goes on from the prompt's head, and what is kept in
    the slots that the prompt and its room take.

    Args:
        free: bool array [slots]: in which nothing lies. Further slots are not looked at.
        busy: bool array [slots]: with what lies in which somebody else works, and grows behind it.
        path: What of the prompt is there.
        count: Slots that the rest of it takes; so many are free.
        room: Slots that are to be free behind it, and before it where somebody grows; fewer, where that cannot be.

    Returns:
        Where it goes; `None` where it fits nowhere.
    """
    slots, tail = len(free), path.tail
    stays = busy.copy()
    stays[path.head] = True
    strange = ~free & ~stays
    strange[tail] = False
    # sums over the slots before each
    staying, growing, strangers = (np.append(0, np.cumsum(mask)) for mask in (stays, busy, strange))
    # how much of the tail would lie where it does, by where the place begins
    begins = tail - np.arange(len(tail))
    in_place = np.bincount(begins[begins >= 0], minlength=slots)
    free_slots = int(np.count_nonzero(free))
    for wanted in halves(room):
        length = len(tail) + count + wanted
        if length > slots or count + wanted > free_slots:
            continue
        starts = np.arange(slots - length + 1)
        fits = staying[starts + length] == staying[starts]
        fits &= growing[starts] == growing[np.maximum(starts - wanted, 0)]
        if fits.any():
            cost = strangers[starts + length] - strangers[starts] - in_place[starts]
            start = int(np.argmin(np.where(fits, cost, slots)))
            sources = start + np.flatnonzero(strange[start : start + length])
            spare = free.copy()
            spare[tail] = True
            spare[start : start + length] = False
            places = np.arange(start, start + len(tail))
            moves = tail != places
            targets = _lodgings(spare, growing, room, len(sources))
            return Placement(start, np.append(sources, tail[moves]), np.append(targets, places[moves]))
    return None


def rooms(free: np.ndarray, busy: np.ndarray, room: int) -> int:
    """How many free slots lie behind those with which somebody works, for what grows there.

    Args:
        free: bool array [slots].
        busy: bool array [slots].
        room: How far a room reaches.
    """
    return int(np.count_nonzero(_within(np.flatnonzero(free), np.append(0, np.cumsum(busy)), room)))


def _within(slots: np.ndarray, growing: np.ndarray, room: int) -> np.ndarray:
    """Which slots lie in somebody's room, by how many before each are worked with."""
    return growing[slots] > growing[np.maximum(slots - room, 0)]


def _lodgings(spare: np.ndarray, growing: np.ndarray, room: int, count: int) -> np.ndarray:
    """So many of some slots for what is kept: those behind which somebody grows last."""
    slots = np.flatnonzero(spare)
    return slots[np.argsort(_within(slots, growing, room), kind="stable")][:count]
