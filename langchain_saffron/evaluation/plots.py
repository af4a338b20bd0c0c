"""Plots of a run: attack success over compute, width, calls of the reward model, quality, and attempts."""

import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

Row = dict[str, Any]
Point = tuple[float, float, float, float]

# of methods: each at least three times as bright or dark as the paper, be that white or almost black
COLOURS = ("#1f77b4", "#d9690b", "#2c982c", "#d62728", "#9467bd", "#a0695c", "#c654a3", "#84850f", "#0f8a99")
MARKERS = "osD^vPX*h"
MOST_TICKS = 8


@dataclass(frozen=True)
class Colours:
    """Of what is written, and of what it is written on."""

    ink: str
    paper: str


LIGHT, DARK = Colours("#202124", "#ffffff"), Colours("#e3e3e3", "#16181c")


def family_of(method: str) -> tuple[str, int | None]:
    """A method's family and width: `("saffron", 16)` of `saffron-16`."""
    family, _, width = method.rpartition("-")
    return (family, int(width)) if family and width.isdecimal() else (method, None)


def over_compute(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over mean TFLOP, one curve a method (SAFFRON paper, figure 2)."""
    return _draw(lines, lambda line, width: line["tflops"], "TFLOP an answer")


def over_width(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over the width (SAFFRON paper, table 3 and figure 4a)."""
    return _draw(lines, lambda line, width: width, "width", powers=True)


def over_calls(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over sequences that the reward model scored (SAFFRON paper, table 1)."""
    return _draw(lines, lambda line, width: line["reward_calls"] or None, "reward calls an answer")


def over_quality(lines: Sequence[Row]) -> Figure:
    """Share of unsafe answers over how likely the policy finds them."""
    return _draw(lines, lambda line, width: line["logprob"], "log-likelihood a token, in nats", log=False)


def over_attempts(lines: Sequence[Row]) -> Figure:
    """Share of prompts that are broken within so many queries or draws, one curve a method and width."""
    tried = [(line, line["attempts"]) for line in lines if line.get("attempts")]
    points = [
        {**line, "attempt": int(k), "unsafe": share, "unsafe_low": low, "unsafe_high": high}
        for line, attempts in tried
        for k, (share, low, high) in attempts["success"].items()
    ]
    return _draw(points, lambda point, width: point["attempt"], tried[0][1]["of"], curve=lambda method: method)


# by the names of their files
PLOTS: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "compute": over_compute, "width": over_width, "calls": over_calls, "quality": over_quality
}  # fmt: skip


def plots_of(lines: Sequence[Row]) -> dict[str, Figure]:
    """The plots of one dataset under one attack, new ones at every call."""
    drawn = {name: draw(lines) for name, draw in PLOTS.items()}
    return {**drawn, "attempts": over_attempts(lines)} if any(line.get("attempts") for line in lines) else drawn


def ticks_of(values: Sequence[float], powers: bool = False) -> list[float]:
    """At most eight ticks of a logarithmic axis, all of which can be written out as plain numbers.

    Args:
        values: What lies on the axis, above 0.
        powers: Powers of two, in place of 1, 2, 5, 10, …; where hardly any lie among the values, it is the first and
            the last of these.
    """
    low, high = min(values), max(values)
    if powers:
        found = [2.0**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    else:
        decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
        found = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) > MOST_TICKS:
            found = [tick for tick in found if math.log10(tick).is_integer()]
    if len(found) < 2:
        found = sorted({low, high})
    return found[:: math.ceil(len(found) / MOST_TICKS)]


def plain_number(value: float) -> str:
    """Three digits that count, never as a power of ten."""
    return f"{value:,.0f}" if value >= 100 else np.format_float_positional(value, 3, fractional=False, trim="-")


def as_png(figure: Figure, dark: bool = False) -> bytes:
    """A figure as the contents of a PNG file.

    Args:
        figure: One of the above.
        dark: Whether it is for a dark screen.
    """
    colours = DARK if dark else LIGHT
    figure.set_facecolor(colours.paper)
    for axes in figure.axes:
        axes.set_facecolor(colours.paper)
        axes.tick_params(which="both", colors=colours.ink)
        for spine in axes.spines.values():
            spine.set_edgecolor(colours.ink)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(colours.ink)
        if legend := axes.get_legend():
            legend.get_frame().set(facecolor=colours.paper, edgecolor="0.5")
            for text in legend.get_texts():
                text.set_color(colours.ink)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw(
    lines: Sequence[Row],
    place: Callable[[Row, int | None], float | None],
    label: str,
    log: bool = True,
    powers: bool = False,
    curve: Callable[[str], str] = lambda method: family_of(method)[0],
) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[Point]] = defaultdict(list)
    for line in lines:
        family, (_, width) = curve(line["method"]), family_of(line["method"])
        x = place(line, width)
        if x is None and line["method"] == "none":
            axes.axhline(line["unsafe"], linestyle="--", color="0.5", label="no defence")
        if x is not None and not math.isnan(x) and (x > 0 or not log):
            curves[family].append((x, line["unsafe"], line["unsafe_low"], line["unsafe_high"]))
    # the same for a method in every plot of these lines
    families = sorted({curve(line["method"]) for line in lines})
    looks = dict(zip(families, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    for family, points in sorted(curves.items()):
        colour, marker = looks[family]
        points.sort()
        places, y, low, high = (list(values) for values in zip(*points, strict=True))
        # where all prompts agree, the ends may lie a rounding error on the wrong side
        errors = [[max(0.0, a - b) for a, b in ends] for ends in (zip(y, low, strict=True), zip(high, y, strict=True))]
        axes.errorbar(places, y, yerr=errors, color=colour, marker=marker, capsize=3, label=family)
    axes.set(xlabel=label, ylabel="attack success", ylim=(-0.05, 1.05))
    if curves:
        if log:
            axes.set_xscale("log", base=2)
            ticks = ticks_of([point[0] for points in curves.values() for point in points], powers)
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_major_formatter(FixedFormatter([plain_number(tick) for tick in ticks]))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        axes.legend()
    return figure
