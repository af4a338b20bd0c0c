"""The figures of a run as the cells of a table."""

import math
from collections.abc import Sequence
from typing import Any

from langchain_saffron.evaluation.metrics import Row
from langchain_saffron.evaluation.tables import Table

_COLUMNS = (
    ("method", "method"), ("attack", "attack"), ("dataset", "dataset"), ("prompts", "prompts"),
    ("unsafe", "unsafe"), ("unsafe_alone", "without prefill"), ("refused", "refused"),
    ("on_topic", "on topic"), ("logprob", "log p / token"),
    ("tflops", "TFLOP"), ("reward_calls", "reward calls"), ("tokens", "tokens"), ("seconds", "seconds"),
)  # fmt: skip


def figures_table(lines: Sequence[Row]) -> Table:
    """All figures, the columns' names first; columns without a value are left out.

    Args:
        lines: As `summarise` gives them.
    """
    shown = [(key, title) for key, title in _COLUMNS if any(not is_empty(line[key]) for line in lines)]
    return [[title for _, title in shown], *([cell(line, key) for key, _ in shown] for line in lines)]


def cell(line: Row, key: str) -> str:
    """One figure of a line as text."""
    value = line[key]
    if is_empty(value):
        return "–"
    if key == "unsafe":
        return f"{value:.3f} ({line['unsafe_low']:.3f}–{line['unsafe_high']:.3f})"
    if key == "tflops":
        return f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:.2f}" if key in ("seconds", "tokens", "reward_calls") else f"{value:.3f}"
    return str(value)


def is_empty(value: Any) -> bool:
    """Whether there is no such figure: `None` or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))
