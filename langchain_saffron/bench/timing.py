"""Measurements in turns, and what comes of them."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One measurement that is done."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Ratio:
    """One figure.

    Attributes:
        name: What is divided by what.
        value: The ratio.
        reach: What it should be.
        at_most: Whether smaller is better.
    """

    name: str
    value: float
    reach: float
    at_most: bool = True


@dataclass
class Report:
    """Everything measured: medians in seconds, the ratios, and what a wide search's time went into."""

    seconds: dict[str, float] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    breakdown: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


def rounds(seconds: dict[str, float], measures: dict[str, Callable[[], float]], repeats: int) -> Iterator[Measured]:
    """Take measurements in turns, so that a machine that changes its speed changes it for all; the medians count."""
    timings: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            timings[name].append(measure())
            seconds[name] = statistics.median(timings[name])
            yield Measured(name, timings[name][-1])
