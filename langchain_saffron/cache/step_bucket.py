"""The shapes that decode steps are rounded up to, so that few of them have to be captured."""

from collections.abc import Sequence
from dataclasses import dataclass

# beyond, a step computes for so long that launching its kernels one by one costs little
MOST_ROWS = 256
LEAST_VISIBLE = 256
# slots that all groups read, which a step copies together layer by layer; and numbers of its mask, which are uploaded
MOST_READ = 1 << 16
MOST_MASK = 1 << 22


@dataclass(frozen=True)
class StepBucket:
    """A shape, in powers of two: a step is padded to less than twice its size, in each of its sides.

    vLLM and mini-sglang round decode batches up to 1, 2, 4 and then multiples of 8; a tree's steps have four sides, for
    which that would be too many shapes.

    Attributes:
        rows: Of the forward.
        groups: Requests.
        group_rows: Rows that each request has.
        visible: Slots that each request reads.
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
        bucket = cls(
            rows=_power(sum(groups)),
            groups=_power(len(groups)),
            group_rows=_power(max(groups)),
            visible=max(LEAST_VISIBLE, _power(visible)),
        )
        read = bucket.groups * bucket.visible
        fits = bucket.rows <= MOST_ROWS and read <= MOST_READ and read * bucket.group_rows <= MOST_MASK
        return bucket if fits else None


def _power(count: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (count - 1).bit_length()
