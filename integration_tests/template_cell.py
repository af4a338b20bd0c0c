"""A cell of the table of templates."""

from dataclasses import dataclass
from typing import Literal

State = Literal["right", "not offered", "wrong"]


class Wrong(Exception):
    """What was measured is not what it should be."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of one template in one respect.

    Attributes:
        state: Whether it is right, or justly not offered.
        reason: Why it is not offered or wrong, or what is to be said besides.
    """

    state: State = "right"
    reason: str = ""

    @classmethod
    def absent(cls, reason: str) -> "Cell":
        """Justly not offered."""
        return cls("not offered", reason)

    @classmethod
    def wrong(cls, reason: str) -> "Cell":
        """Not what it should be."""
        return cls("wrong", reason)


def first_difference(got: str, wanted: str) -> str:
    """Where two prompts part."""
    place = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    begin = max(place - 40, 0)
    return f"…{got[begin : place + 40]!r}, by transformers …{wanted[begin : place + 40]!r}"
