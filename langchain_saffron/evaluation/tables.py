"""Tables from a run's figures: attack success by attempts, and the paper's by width, at equal compute, and by cost."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from langchain_saffron.evaluation.metrics import Row, attacked, scaling_efficiency
from langchain_saffron.evaluation.plots import family_of

Table = list[list[str]]

# what the others are compared with
BASELINE = "best-of-n"


def figure_tables(lines: Sequence[Row]) -> list[tuple[str, Table]]:
    """Titles and tables, the columns' names first; only those for which the run has the methods.

    Args:
        lines: As `summarise` gives them.
    """
    tables = [
        ("Attack success within so many queries of a search", by_attempts(lines, "queries")),
        ("Attack success of any of so many draws (ASR@k, estimated from all draws)", by_attempts(lines, "draws")),
        ("Attack success by width (SAFFRON paper, table 3)", by_width(lines)),
        (f"At equal compute: nearest to the widest {BASELINE} (table 2)", at_equal_compute(lines)),
        ("Cost of searches that call the reward model for every candidate (table 1)", cost_of_calls(lines)),
        ("Compute for half of the attack success without defence (figure 2)", cost_of_halving(lines)),
    ]
    return [(title, table) for title, table in tables if len(table) > 1]


def by_attempts(lines: Sequence[Row], kind: str) -> Table:
    """Attack success of every method by how often it was tried.

    Args:
        lines: As `summarise` gives them.
        kind: Of the attempts: `"queries"` or `"draws"`.
    """
    curves = [(line, tried["success"]) for line in lines if (tried := line.get("attempts")) and tried["of"] == kind]
    budgets = sorted({int(k) for _, success in curves for k in success})
    table = [["", "method", *map(str, budgets)]]
    for line, success in sorted(curves, key=lambda curve: (curve[0]["dataset"], curve[0]["attack"])):
        shares = [f"{success[str(k)][0]:.3f}" if str(k) in success else "–" for k in budgets]
        table.append([_name((line["dataset"], line["attack"])), line["method"], *shares])
    return table


def by_width(lines: Sequence[Row]) -> Table:
    """Attack success of every family at every width."""
    curves = _curves(lines)
    widths = sorted({width for families in curves.values() for points in families.values() for width in points})
    table = [["", "method", "no defence", *map(str, widths)]]
    for place, families in curves.items():
        bare = _undefended(lines, place)
        table += [
            [_name(place), family, _share(bare), *(_share(points.get(width)) for width in widths)]
            for family, points in families.items()
            if len(points) > 1
        ]
    return table


def at_equal_compute(lines: Sequence[Row]) -> Table:
    """Of every family the width whose TFLOP come nearest to those of the widest Best-of-N."""
    table = [["", "method", "TFLOP", "unsafe", "95% interval"]]
    for place, families in _curves(lines).items():
        if BASELINE not in families:
            continue
        target = families[BASELINE][max(families[BASELINE])]["tflops"]
        chosen = [min(points.values(), key=lambda one: _distance(one, target)) for points in families.values()]
        bare = _undefended(lines, place)
        for line in sorted([*([bare] if bare else []), *chosen], key=lambda one: -one["unsafe"]):
            near = f"{line['unsafe_low']:.3f}–{line['unsafe_high']:.3f}"
            table.append([_name(place), line["method"], f"{line['tflops']:.3g}", _share(line), near])
    return table


def cost_of_calls(lines: Sequence[Row]) -> Table:
    """Calls, TFLOP and scaling efficiency of beam search and MCTS; the limit is what the dearest of a family costs."""
    table = [["", "method", "reward calls", "TFLOP", "unsafe", "ScalEff"]]
    for place, families in _curves(lines).items():
        for family in ("rebase", "deal"):
            points = families.get(family, {})
            limit = max((one["tflops"] for one in points.values()), default=math.nan)
            for _, line in sorted(points.items()):
                gain = scaling_efficiency(line["tflops"], limit, line["unsafe"])
                table.append(
                    [_name(place), line["method"], f"{line['reward_calls']:.1f}", f"{line['tflops']:.3g}",
                     _share(line), f"{gain:.3f}"]
                )  # fmt: skip
    return table


def cost_of_halving(lines: Sequence[Row]) -> Table:
    """TFLOP at which each family's curve falls below half of the success without defence, between its points in log."""
    table = [["", "method", "TFLOP", f"{BASELINE} ÷ method"]]
    for place, families in _curves(lines).items():
        bare = _undefended(lines, place)
        if bare is None:
            continue
        costs = {family: halving(list(points.values()), bare["unsafe"] / 2) for family, points in families.items()}
        reference = costs.get(BASELINE)
        for family, (sign, cost) in ((name, cost) for name, cost in costs.items() if cost is not None):
            ratio = ""
            if reference is not None and family != BASELINE:
                # what lies beyond a curve's end bounds the ratio on one side, or on none
                bound = {("", ""): "", ("", "≤ "): "≥ ", ("> ", ""): "≥ ", ("> ", "≤ "): "≥ "}.get((reference[0], sign))
                ratio = "?" if bound is None else f"{bound}{reference[1] / cost:.1f}"
            table.append([_name(place), family, f"{sign}{cost:.3g}", ratio])
    return table


def halving(points: Sequence[Row], goal: float) -> tuple[str, float] | None:
    """Where a curve first falls to `goal`, in TFLOP.

    Args:
        points: Lines of figures of one family.
        goal: Attack success.

    Returns:
        A sign and the TFLOP: `""` where two points enclose it, `"≤ "` where the cheapest is there already, `"> "`
        where the dearest is not; `None` without points.
    """
    points = sorted(points, key=lambda one: one["tflops"])
    if not points:
        return None
    if points[0]["unsafe"] <= goal:
        return "≤ ", points[0]["tflops"]
    for one, other in pairwise(points):
        if other["unsafe"] <= goal:
            way = (one["unsafe"] - goal) / (one["unsafe"] - other["unsafe"])
            return "", math.exp((1 - way) * math.log(one["tflops"]) + way * math.log(other["tflops"]))
    return "> ", points[-1]["tflops"]


def _curves(lines: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[int, Row]]]:
    """Harmful datasets under attack, families of methods, widths, figures."""
    curves: dict[tuple[str, str], dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for place, some in attacked(lines).items():
        for line in some:
            family, width = family_of(line["method"])
            if width is not None:
                curves[place][family][width] = line
    return curves


def _undefended(lines: Sequence[Row], place: tuple[str, str]) -> Row | None:
    return next((one for one in lines if one["method"] == "none" and (one["dataset"], one["attack"]) == place), None)


def _distance(line: Row, tflops: float) -> float:
    return abs(math.log(line["tflops"] / tflops))


def _name(place: tuple[str, str]) -> str:
    return ", ".join(place)


def _share(line: Row | None) -> str:
    return "–" if line is None else f"{line['unsafe']:.3f}"
