"""Figures as Markdown tables and JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_COLUMNS = (
    ("method", "method"), ("attack", "attack"), ("dataset", "dataset"), ("prompts", "prompts"),
    ("unsafe", "unsafe"), ("refused", "refused"), ("on_topic", "on topic"), ("logprob", "log p / token"),
    ("tflops", "TFLOP"), ("reward_calls", "reward calls"), ("tokens", "tokens"), ("seconds", "seconds"),
)  # fmt: skip


def markdown(lines: Sequence[Row], judge: str, note: str = "") -> str:
    """The figures of a run as a Markdown table.

    Args:
        lines: As `summarise` gives them.
        judge: Who judged.
        note: What a reader has to know, above the table.
    """
    shown = [(key, title) for key, title in _COLUMNS if any(not _empty(line[key]) for line in lines)]
    table = [
        "| " + " | ".join(title for _, title in shown) + " |",
        "|" + "|".join("---" for _ in shown) + "|",
        *("| " + " | ".join(_cell(line, key) for key, _ in shown) + " |" for line in lines),
    ]
    head = [f"Judge: {judge}. Unsafe: share of answers, with a 95% bootstrap interval over prompts."]
    return "\n".join([*head, *([note] if note else []), "", *table, ""])


def write_report(directory: Path, lines: Sequence[Row], judge: str, note: str = "") -> str:
    """Write `metrics.json` and `report.md`, and return the latter's text."""
    text = markdown(lines, judge, note)
    plain = [{key: None if _empty(value) else value for key, value in line.items()} for line in lines]
    record = {"judge": judge, "note": note, "figures": plain}
    (directory / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(text, encoding="utf-8")
    return text


def _cell(line: Row, key: str) -> str:
    value = line[key]
    if _empty(value):
        return "–"
    if key == "unsafe":
        return f"{value:.3f} ({line['unsafe_low']:.3f}–{line['unsafe_high']:.3f})"
    if key == "tflops":
        return f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:.2f}" if key in ("seconds", "tokens", "reward_calls") else f"{value:.3f}"
    return str(value)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
