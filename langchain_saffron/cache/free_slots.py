"""Which slots are free, and which of them to take."""

from collections.abc import Callable

import numpy as np

# of the slots handed out so far, so many times those in use, and so many more: a pool is as long as its highest slot
SPREAD = 2
LEAST_SPREAD = 512
# room behind a prompt is one in so many of all slots at most
ROOM_PART = 32


class FreeSlots:
    """Hands slots out so that what is read together lies together: one span of keys is read where it lies.

    A prompt takes a run of slots, and its beams the lowest ones behind it. The highest slot ever taken stays below
    `SPREAD` times those in use, and `LEAST_SPREAD`: beyond, holes are filled.

    Attributes:
        count: How many are free.
        reached: All slots from here on were never taken.
    """

    def __init__(self, capacity: int) -> None:
        """All are free.

        Args:
            capacity: How many there are.
        """
        self.count = self._capacity = capacity
        self.reached = 0
        # bytes are looked through a byte at a time, as fast as memory gives them; numpy sees the same memory
        self._free = bytearray(b"\1") * capacity
        self._view = np.frombuffer(self._free, dtype=np.bool_)

    def give_back(self, slot: int) -> None:
        """Make a slot free."""
        self._free[slot] = 1
        self.count += 1

    def take(self, home: int) -> int:
        """The lowest free slot from `home` on, or the lowest of all where that would spread too far."""
        slot = self._free.find(1, home, self._end(1))
        if slot < 0:
            slot = self._free.find(1)
        self._free[slot] = 0
        self.count -= 1
        if slot >= self.reached:
            self.reached = slot + 1
        return slot

    def take_run(self, count: int, home: int, room: int, grows: Callable[[int], bool]) -> np.ndarray:
        """The first run that holds `count` slots, from `home` on if there is one; where there is none, few pieces.

        Args:
            count: How many; so many must be free.
            home: Where to look first.
            room: How many slots should be free behind it, and before it where somebody grows; fewer, where that
                would spread too far.
            grows: Whether something that grows lies in a slot.

        Returns:
            int64 [count], ascending.
        """
        end = self._end(count)
        lows, highs = self._runs(home)
        start = self._fitting(count, lows, highs, end, min(room, self._capacity // ROOM_PART), grows)
        slots = np.arange(start, start + count) if start is not None else _pieces(count, lows, np.minimum(highs, end))
        self._view[slots] = False
        self.count -= count
        self.reached = max(self.reached, int(slots[-1]) + 1)
        return slots

    def find_room(self, home: int, room: int, grows: Callable[[int], bool]) -> int:
        """Where so much room begins, from `home` on if there is any; `home` where there is none.

        Args:
            home: Where the prompt ends that the room is for.
            room: How many slots are wanted.
            grows: As for `take_run`.
        """
        lows, highs = self._runs(home)
        start = self._fitting(0, lows, highs, self._end(0), min(room, self._capacity // ROOM_PART), grows)
        return home if start is None else start

    def _end(self, more: int) -> int:
        """What `more` slots stay below; at least so many are free there."""
        in_use = self._capacity - self.count + more
        return min(self._capacity, max(self.reached, SPREAD * in_use + LEAST_SPREAD))

    def _runs(self, home: int) -> tuple[np.ndarray, np.ndarray]:
        """Beginnings and ends of the runs of free slots, those from `home` on first."""
        # behind, all is free
        known = np.append(self._view[: self.reached], self.reached < self._capacity)
        edges = np.flatnonzero(known[1:] != known[:-1]) + 1
        if known[0]:
            edges = np.append(0, edges)
        if len(edges) % 2:
            edges = np.append(edges, self._capacity)
        place = int(np.searchsorted(edges, home))
        if place % 2 and edges[place] != home:
            # it lies within a run
            edges = np.insert(edges, place, (home, home))
            place += 1
        edges = np.roll(edges, -(place + place % 2))
        return edges[::2], edges[1::2]

    def _fitting(
        self, count: int, lows: np.ndarray, highs: np.ndarray, end: int, room: int, grows: Callable[[int], bool]
    ) -> int | None:
        """Where the first run begins that has room; half of it, a quarter of it, or none."""
        for wanted in dict.fromkeys((room, room // 2, room // 4, 0)):
            for i in np.flatnonzero((highs - lows >= count + wanted) & (lows + count <= end)).tolist():
                low = int(lows[i])
                start = low + wanted if wanted and low and grows(low - 1) else low
                if start + count <= end and start + count + wanted <= highs[i]:
                    return start
        return None


def _pieces(count: int, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
    """So many slots of some runs, the longest first."""
    slots = np.empty(0, dtype=np.int64)
    for i in np.argsort(lows - highs, kind="stable").tolist():
        slots = np.append(slots, np.arange(lows[i], min(highs[i], lows[i] + count - len(slots))))
        if len(slots) == count:
            break
    return np.sort(slots)
