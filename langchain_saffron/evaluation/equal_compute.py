"""Equal compute: the hyperparameter at which a method costs what another one costs (SAFFRON paper, section 5.1)."""

from collections.abc import Callable
from dataclasses import dataclass

WIDEST = 512


@dataclass(frozen=True)
class Match:
    """What was found.

    Attributes:
        width: The hyperparameter.
        tflops: What it costs, as the mean over the pilot's answers.
        tried: All widths that were measured, with what they cost.
    """

    width: int
    tflops: float
    tried: dict[int, float]


def match_width(cost: Callable[[int], float], target: float, widest: int = WIDEST) -> Match:
    """The width whose cost comes nearest to `target`, by doubling and then halving the interval.

    Args:
        cost: Mean TFLOP of an answer at a width; it grows with the width, but for noise.
        target: Mean TFLOP to be met.
        widest: No width beyond it is tried.
    """
    tried = {1: cost(1)}
    high = 1
    while tried[high] < target and high < widest:
        high = min(2 * high, widest)
        tried[high] = cost(high)
    low = max((width for width in tried if width < high), default=high)
    while high - low > 1:
        middle = (low + high) // 2
        tried[middle] = cost(middle)
        low, high = (middle, high) if tried[middle] < target else (low, middle)
    nearest = min(tried, key=lambda width: abs(tried[width] - target))
    return Match(nearest, tried[nearest], dict(sorted(tried.items())))
