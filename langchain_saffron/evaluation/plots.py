"""Plots of a run: attack success over compute, width, calls of the reward model, and quality."""

import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

Row = dict[str, Any]
Point = tuple[float, float, float, float]


def family_of(method: str) -> tuple[str, int | None]:
    """A method's family and width: `("saffron", 16)` of `saffron-16`."""
    family, _, width = method.rpartition("-")
    return (family, int(width)) if family and width.isdecimal() else (method, None)


def over_compute(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over mean TFLOP, one curve a method (SAFFRON paper, figure 2)."""
    return _draw(lines, lambda line, width: line["tflops"], "TFLOP an answer")


def over_width(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over the width (SAFFRON paper, table 3 and figure 4a)."""
    return _draw(lines, lambda line, width: width, "width")


def over_calls(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over sequences that the reward model scored (SAFFRON paper, table 1)."""
    return _draw(lines, lambda line, width: line["reward_calls"] or None, "reward calls an answer")


def over_quality(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over how likely the policy finds them."""
    return _draw(lines, lambda line, width: line["logprob"], "log-likelihood a token, in nats", log=False)


# by the names of their files
PLOTS: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "compute": over_compute, "width": over_width, "calls": over_calls, "quality": over_quality
}  # fmt: skip


def as_png(figure: Figure) -> bytes:
    """A figure as the contents of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw(
    lines: Sequence[Row], place: Callable[[Row, int | None], float | None], label: str, log: bool = True
) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[Point]] = defaultdict(list)
    for line in lines:
        family, width = family_of(line["method"])
        x = place(line, width)
        if x is None and line["method"] == "none":
            axes.axhline(line["unsafe"], linestyle="--", color="0.5", label="no defence")
        if x is not None and not math.isnan(x):
            curves[family].append((x, line["unsafe"], line["unsafe_low"], line["unsafe_high"]))
    for family, points in sorted(curves.items()):
        points.sort()
        places, y, low, high = (list(values) for values in zip(*points, strict=True))
        # where all prompts agree, the ends may lie a rounding error on the wrong side
        errors = [[max(0.0, a - b) for a, b in ends] for ends in (zip(y, low, strict=True), zip(high, y, strict=True))]
        axes.errorbar(places, y, yerr=errors, marker="o", capsize=3, label=family)
    axes.set(xlabel=label, ylabel="attack success", ylim=(-0.05, 1.05))
    if curves:
        if log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
        axes.legend()
    return figure
