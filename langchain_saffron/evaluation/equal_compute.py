"""Equal compute: the hyperparameter at which a method costs what another one costs (SAFFRON paper, section 5.1)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.evaluation.cases import Case
from langchain_saffron.evaluation.methods import Method, find_family, make_method
from langchain_saffron.evaluation.runner import Runner

# no width beyond it is tried
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


def match_width(cost: Callable[[int], float], target: float) -> Match:
    """The width whose cost comes nearest to `target`, by doubling and then halving the interval.

    Args:
        cost: Mean TFLOP of an answer at a width; it grows with the width, but for noise.
        target: Mean TFLOP to be met.
    """
    tried = {1: cost(1)}
    high = 1
    while tried[high] < target and high < WIDEST:
        high = min(2 * high, WIDEST)
        tried[high] = cost(high)
    low = max((width for width in tried if width < high), default=high)
    while high - low > 1:
        middle = (low + high) // 2
        tried[middle] = cost(middle)
        low, high = (middle, high) if tried[middle] < target else (low, middle)
    nearest = min(tried, key=lambda width: abs(tried[width] - target))
    return Match(nearest, tried[nearest], dict(sorted(tried.items())))


def match_methods(
    engine: SaffronEngine,
    requested: Sequence[str | Method],
    methods: Sequence[Method],
    pilot: Sequence[Case],
    common: dict[str, Any],
    report: Callable[[str], None] | None,
) -> list[Method]:
    """Methods of equal compute: those named without a width get the one that costs as much as the pilot.

    Args:
        engine: What answers.
        requested: The methods as they were asked for.
        methods: The same as they were read.
        pilot: The cases whose mean cost is to be met, all by one method.
        common: Settings of every method.
        report: Called with a line of news.
    """

    def mean(cases: Iterable[Case]) -> float:
        costs = [row["tflops"] for row in Runner(engine).run(cases)]
        return float(sum(costs) / len(costs))

    target = mean(pilot)
    matched = []
    for name, method in zip(requested, methods, strict=True):
        if not isinstance(name, str) or ":" in name or not find_family(name).has_width:
            matched.append(method)
            continue

        def cost(width: int, name: str = name) -> float:
            method = make_method(name, width, **common)
            return mean(replace(case, method=method) for case in pilot)

        match = match_width(cost, target)
        if report:
            report(f"{name}: width {match.width} costs {match.tflops:.3g} TFLOP an answer, of {target:.3g} wanted")
        matched.append(make_method(name, match.width, **common))
    return matched
