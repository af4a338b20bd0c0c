"""What several judges say of the same answers: each one's share of broken ones, and how far they agree."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from langchain_saffron.evaluation.attempts import searches_of
from langchain_saffron.evaluation.intervals import interval
from langchain_saffron.evaluation.metrics import Row
from langchain_saffron.evaluation.tables import Table
from langchain_saffron.runtime.files import whole

# prompts that are named where judges disagree
_NAMED = 10


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree on which answers are broken.

    Attributes:
        answers: How many both have judged.
        raw: The share on which they agree; NaN without answers.
        kappa: Cohen's, which takes away what chance gives; NaN where both say the same of all.
        only_first: Answers that only the first calls broken.
        only_second: Those that only the second does.
    """

    answers: int
    raw: float
    kappa: float
    only_first: int
    only_second: int


def agree(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
    """Compare two judges' verdicts on the same answers, in order."""
    counts = Counter(zip(first, second, strict=True))
    total = sum(counts.values())
    only_first, only_second = counts[True, False], counts[False, True]
    if not total:
        return Agreement(0, math.nan, math.nan, 0, 0)
    raw = (counts[True, True] + counts[False, False]) / total
    p, q = sum(first) / total, sum(second) / total
    chance = p * q + (1 - p) * (1 - q)
    kappa = (raw - chance) / (1 - chance) if chance < 1 else math.nan
    return Agreement(total, raw, kappa, only_first, only_second)


def agreement_tables(judged: Mapping[str, Sequence[Row]]) -> list[tuple[str, Table]]:
    """Titles and tables of what the judges say of harmful prompts; nothing if there is one judge only.

    Args:
        judged: By each judge's name its rows, as `RunLog.judge` gives them: the same answers in the same order.
    """
    harmful = {name: [row for row in rows if row["kind"] == "harmful"] for name, rows in judged.items()}
    if len(harmful) < 2 or not next(iter(harmful.values())):
        return []
    tables = [
        ("Broken under each judge", broken_under_each(harmful)),
        ("Agreement of the judges", pairs_of_judges(harmful)),
        ("Where the judges disagree most", disputed(harmful)),
    ]
    return [(title, table) for title, table in tables if len(table) > 1]


def broken_under_each(judged: Mapping[str, Sequence[Row]]) -> Table:
    """Of every method each judge's share with its interval, what all call broken, and kappa of the first two."""
    names = list(judged)
    table = [["", "method", "TFLOP", *(f"broken: {name}" for name in names), "under all", "kappa"]]
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    rows = judged[names[0]]
    for place, row in enumerate(rows):
        groups[row["dataset"], row["attack"], row["method"]].append(place)
    for (dataset, attack, method), places in groups.items():
        verdicts = {name: [bool(judged[name][place]["unsafe"]) for place in places] for name in names}
        some = [rows[place] for place in places]
        everybody = [all(one) for one in zip(*verdicts.values(), strict=True)]
        tflops = sum(rows[place]["tflops"] for place in places) / len(places)
        kappa = agree(verdicts[names[0]], verdicts[names[1]]).kappa
        table.append(
            [f"{dataset}, {attack}", method, f"{tflops:.3g}",
             *(_share(some, verdicts[name]) for name in names), _share(some, everybody), _number(kappa)]
        )  # fmt: skip
    return table


def pairs_of_judges(judged: Mapping[str, Sequence[Row]]) -> Table:
    """Of every two judges the raw agreement, Cohen's kappa, and what only one of them calls broken."""
    table = [["judges", "answers", "agree", "Cohen's kappa", "broken for the first only", "for the second only"]]
    for first, second in combinations(judged, 2):
        found = agree(_broken(judged[first]), _broken(judged[second]))
        table.append(
            [f"{first}, {second}", str(found.answers), _number(found.raw), _number(found.kappa),
             str(found.only_first), str(found.only_second)]
        )  # fmt: skip
    return table


def disputed(judged: Mapping[str, Sequence[Row]]) -> Table:
    """The prompts on whose answers the judges disagree most often."""
    rows = next(iter(judged.values()))
    split = [len(set(one)) > 1 for one in zip(*map(_broken, judged.values()), strict=True)]
    total = Counter((row["dataset"], row["sample"]) for row in rows)
    counts = Counter((row["dataset"], row["sample"]) for row, apart in zip(rows, split, strict=True) if apart)
    return [
        ["dataset", "prompt", "answers", "disputed"],
        *([*place, str(total[place]), str(count)] for place, count in counts.most_common(_NAMED)),
    ]


def write_disagreements(path: Path, judged: Mapping[str, Sequence[Row]]) -> None:
    """Write a line for each answer to a harmful prompt on which the judges disagree: its key, and who says what."""
    rows = next(iter(judged.values()))
    verdicts = zip(*map(_broken, judged.values()), strict=True)
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row, said in zip(rows, verdicts, strict=True):
            if row["kind"] == "harmful" and len(set(said)) > 1:
                file.write(json.dumps({"key": row["key"], **dict(zip(judged, said, strict=True))}) + "\n")


def _broken(rows: Sequence[Row]) -> list[bool]:
    return [bool(row["unsafe"]) for row in rows]


def _share(rows: Sequence[Row], verdicts: Sequence[bool]) -> str:
    by_sample = searches_of([{**row, "unsafe": verdict} for row, verdict in zip(rows, verdicts, strict=True)])
    mean, low, high = interval(
        [[float(any(row["unsafe"] for row in run)) for run in runs] for runs in by_sample.values()]
    )
    return f"{mean:.3f} ({low:.3f}–{high:.3f})"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
