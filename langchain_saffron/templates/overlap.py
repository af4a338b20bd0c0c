"""How much of a growing text has to wait until it is known what it begins."""

from collections.abc import Iterable


def overlap(text: str, markers: Iterable[str]) -> int:
    """The length of the longest end of a text that begins a marker.

    Args:
        text: As far as it is there.
        markers: What is looked for; one that stands in the text as a whole does not count.
    """
    sizes = (
        next((size for size in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:size])), 0)
        for marker in markers
    )
    return max(sizes, default=0)
