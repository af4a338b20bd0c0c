"""Sequences of tokens in lots of a bounded size."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Pair = tuple[Sequence[int], Sequence[int]]


def in_lots(items: Sequence[_Item], most: int, size: Callable[[_Item, _Item | None], int]) -> Iterator[list[_Item]]:
    """As many sequences as are worth having in the cache at once.

    Args:
        items: The sequences.
        most: Tokens in a lot, unless one sequence has more.
        size: Tokens of a sequence, beside the one before it in its lot.
    """
    lot: list[_Item] = []
    tokens = 0
    for item in items:
        added = size(item, lot[-1] if lot else None)
        if lot and tokens + added > most:
            yield lot
            lot, tokens, added = [], 0, size(item, None)
        lot.append(item)
        tokens += added
    if lot:
        yield lot


def pair_size(pair: _Pair, before: _Pair | None) -> int:
    """A prompt and an answer, which share nothing with those before, in tokens."""
    return len(pair[0]) + len(pair[1])


def added_size(text: Sequence[int], before: Sequence[int] | None) -> int:
    """What a text adds to one that it may begin as, in tokens."""
    return len(text) - shared_start(text, before or ())


def shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two texts begin with alike."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)
