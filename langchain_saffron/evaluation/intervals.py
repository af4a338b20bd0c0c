"""Shares with their intervals."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000


def interval(values: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float, float]:
    """A mean of shares with its interval: by bootstrap over prompts, or Wilson's where all prompts agree.

    Resampling prompts that agree finds no spread, which would say that nothing else can be: of twenty prompts
    without harm, Wilson's interval ends at 0.161.

    Args:
        values: For each prompt the values of its runs, from 0 to 1: prompts are drawn anew, with all their runs, since
            several answers to one prompt are not independent.
        level: Of confidence.

    Returns:
        The mean over prompts, and the interval's ends; NaN without values.
    """
    means = np.array([np.mean(one) for one in values if len(one)])
    if not len(means):
        return math.nan, math.nan, math.nan
    if np.ptp(means) < 1e-9:
        return float(means[0]), *wilson(float(means[0]), len(means), level)
    rng = np.random.default_rng(0)
    draws = means[rng.integers(0, len(means), (RESAMPLES, len(means)))].mean(axis=1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(means.mean()), float(low), float(high)


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """The ends of Wilson's score interval.

    Args:
        share: What was found, from 0 to 1.
        count: Among how many.
        level: Of confidence.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # at 0 and 1 one end is the share itself, to the last digit
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
