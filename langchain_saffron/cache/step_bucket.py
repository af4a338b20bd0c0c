"""The shapes that decode steps are rounded up to, so that few of them have to be captured."""

from collections.abc import Sequence
from dataclasses import dataclass

# beyond, a step computes for so long that launching its kernels one by one costs little
MOST_ROWS = 256
LEAST_VISIBLE = 256
# up to so many, a GPU takes longer to read a layer than to compute with it: padding costs next to nothing
FREE_ROWS = 64
GROUP_ROWS = (1, 4, 16, 64, MOST_ROWS)
# slots that all groups read, which a step copies together layer by layer; and numbers of its mask, which are uploaded
MOST_READ = 1 << 16
MOST_MASK = 1 << 22


@dataclass(frozen=True)
class StepBucket:
    """A shape. Where padding costs little it is coarse: a search has one beam, then a few, then all of them.

    vLLM and mini-sglang round decode batches up to 1, 2, 4 and then multiples of 8; a tree's steps have four sides, for
    which that would be too many shapes.

    Attributes:
        rows: Of the forward: as many as all groups have, or, where those are more than a GPU computes for nothing, a
            power of two.
        groups: Requests, in powers of two.
        group_rows: Rows that each request has, in powers of four.
        visible: Slots that each request reads, in powers of two.
    """

    rows: int
    groups: int
    group_rows: int
    visible: int

    @classmethod
    def around(cls, groups: Sequence[int], visible: int) -> "StepBucket | None":
        """The smallest that holds a step; `None` where that is larger than what is worth it.

        Args:
            groups: How many rows each request has.
            visible: The most slots that one of them reads.
        """
        widest, count = max(groups), sum(groups)
        if count > MOST_ROWS:
            return None
        group_rows = next(size for size in GROUP_ROWS if size >= widest)
        all_rows = _power(len(groups)) * group_rows
        rows = all_rows if all_rows <= FREE_ROWS else max(FREE_ROWS, _power(count))
        bucket = cls(rows, _power(len(groups)), group_rows, max(LEAST_VISIBLE, _power(visible)))
        read = bucket.groups * bucket.visible
        return bucket if read <= MOST_READ and read * group_rows <= MOST_MASK else None


def _power(count: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (count - 1).bit_length()
