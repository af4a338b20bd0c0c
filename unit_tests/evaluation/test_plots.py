"""Plots: ticks as plain numbers, and colours that can be told from light and dark paper."""

import re

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from langchain_saffron.evaluation.plots import (
    COLOURS,
    DARK,
    LIGHT,
    MOST_TICKS,
    PLOTS,
    as_png,
    over_calls,
    over_compute,
    over_quality,
    over_width,
    plain_number,
    ticks_of,
)
from unit_tests.evaluation.reports import LINES, figures


def labels(figure: Figure) -> list[str]:
    """What matplotlib writes below an axis, as far as it can be seen."""
    as_png(figure)
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    # a label of the axis is matplotlib's own typesetting where it holds a $
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    return [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]


def test_widths_are_powers_of_two():
    assert labels(over_width(LINES)) == ["1", "2", "4", "8", "16"]


@pytest.mark.parametrize(
    ("costs", "wanted"),
    [
        ((1.0, 10.0), ["1", "2", "5", "10"]),
        ((0.00057, 0.00572), ["0.001", "0.002", "0.005"]),
        ((3e-7, 4e-6), ["0.0000005", "0.000001", "0.000002"]),
        ((0.02, 90_000.0), ["0.1", "1", "10", "100", "1,000", "10,000"]),
        ((2.1, 2.4), ["2.1", "2.4"]),
        ((3.0, 3.0), ["3"]),
    ],
)
def test_compute_is_in_plain_numbers(costs: tuple[float, float], wanted: list[str]):
    lines = [figures(f"saffron-{width}", 0.5, cost) for width, cost in zip((1, 2), costs, strict=True)]
    assert labels(over_compute(lines)) == wanted


def test_no_plot_writes_powers_of_ten():
    lines = [{**line, "reward_calls": 10.0**i, "logprob": -1e-6 * i} for i, line in enumerate(LINES)]
    for figure in (over_calls(lines), over_quality(lines)):
        assert labels(figure)
        assert all(re.fullmatch(r"[−-]?[\d,]+(\.\d+)?", text) for text in labels(figure))
        assert not figure.axes[0].xaxis.get_offset_text().get_text()


def test_there_are_never_too_many_ticks():
    for powers in (True, False):
        found = ticks_of([1e-9, 1e9], powers)
        assert 2 <= len(found) <= MOST_TICKS
        assert len({plain_number(tick) for tick in found}) == len(found)


def test_a_method_without_compute_is_left_out():
    assert labels(over_compute([figures("saffron-1", 0.5, 0.0), figures("saffron-2", 0.5, 2.0)])) == ["2"]
    assert as_png(over_compute([figures("saffron-1", 0.5, 0.0)])).startswith(b"\x89PNG")


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_curves_and_words_can_be_read_on_light_and_dark_paper():
    for look in (LIGHT, DARK):
        assert contrast(look.ink, look.paper) > 10
        assert min(contrast(colour, look.paper) for colour in COLOURS) >= 3


def test_a_dark_plot_is_dark_all_over_and_a_light_one_light():
    for dark, look in ((True, DARK), (False, LIGHT)):
        figure = over_width(LINES)
        as_png(figure, dark)
        (axes,) = figure.axes
        legend = axes.get_legend()
        written = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
        for text in (*written, *legend.get_texts()):
            assert to_rgb(text.get_color()) == to_rgb(look.ink)
        for paper in (figure.patch, axes.patch, legend.get_frame()):
            assert to_rgb(paper.get_facecolor()) == to_rgb(look.paper)


def test_a_method_looks_the_same_in_every_plot():
    looks: dict[str, set[str]] = {}
    for draw in PLOTS.values():
        axes = draw(LINES).axes[0]
        for curve in axes.containers:
            looks.setdefault(curve.get_label(), set()).add(curve.lines[0].get_color())
    assert {"none", "best-of-n", "rebase", "saffron"} <= set(looks)
    assert all(len(colours) == 1 for colours in looks.values())
    assert len({*map(tuple, looks.values())}) == len(looks)
