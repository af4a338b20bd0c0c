"""What finds the shortest end of an answer."""

from collections.abc import Callable, Iterable
from typing import Protocol


class Closer(Protocol):
    """Finds ends of what has been written."""

    @property
    def rise(self) -> int:
        """How many tokens farther the end may be after one more piece of the answer, at most."""

    def close(self, text: bytes) -> bytes | None:
        """What makes `text` whole; `None` where nothing is known to."""


def shortest(ends: Iterable[bytes | None], cost: Callable[[bytes], int]) -> bytes | None:
    """The shortest of some ends; `None` where there is none.

    Args:
        ends: The ends; `None` for one that was not found.
        cost: How long some text is, in tokens.
    """
    known = [end for end in ends if end is not None]
    return min(known, key=lambda end: (cost(end), len(end))) if known else None
