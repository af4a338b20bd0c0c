"""Figures as Markdown, JSON and one HTML file."""

import base64
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.evaluation.metrics import Row, attacked
from langchain_saffron.evaluation.plots import PLOTS, as_png
from langchain_saffron.evaluation.tables import Table, paper_tables
from langchain_saffron.runtime.files import write_json

# PNG files by dataset and attack, and by the plot's name
Pictures = dict[tuple[str, str], dict[str, bytes]]

_COLUMNS = (
    ("method", "method"), ("attack", "attack"), ("dataset", "dataset"), ("prompts", "prompts"),
    ("unsafe", "unsafe"), ("unsafe_alone", "without prefill"), ("refused", "refused"),
    ("on_topic", "on topic"), ("logprob", "log p / token"),
    ("tflops", "TFLOP"), ("reward_calls", "reward calls"), ("tokens", "tokens"), ("seconds", "seconds"),
)  # fmt: skip

_HEAD = (
    "Judge: {judge}. Unsafe: share of answers, with a 95% interval over prompts (by bootstrap; Wilson's where all "
    "prompts agree); a prefill is judged as part of the answer, and then without it."
)
_PAGE = """<!doctype html>
<meta charset="utf-8"><title>saffron evaluate</title>
<style>
body {{ font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
td, th {{ border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: left }}
img {{ max-width: 48% }}
</style>
<h1>saffron evaluate</h1>
<p>{head}</p>
{tables}
{plots}
"""


def markdown(lines: Sequence[Row], judge: str, note: str = "", sections: Sequence[tuple[str, Table]] = ()) -> str:
    """The figures of a run as Markdown: all of them, then the paper's tables.

    Args:
        lines: As `summarise` gives them.
        judge: Who judged.
        note: What a reader has to know, above the table.
        sections: Titles and tables that follow.
    """
    parts = [_HEAD.format(judge=judge), *([note] if note else []), _as_markdown(_table(lines))]
    for title, table in (*paper_tables(lines), *sections):
        parts += [f"## {title}", _as_markdown(table)]
    return "\n\n".join(parts) + "\n"


def as_html(
    lines: Sequence[Row],
    judge: str,
    pictures: Pictures,
    note: str = "",
    sections: Sequence[tuple[str, Table]] = (),
) -> str:
    """The figures as one HTML file, with the plots of every attack on every dataset inside."""
    tables = [_as_html(_table(lines))]
    tables += [f"<h2>{html.escape(title)}</h2>{_as_html(table)}" for title, table in (*paper_tables(lines), *sections)]
    plots = []
    for place, drawn in pictures.items():
        urls = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in drawn.items()}
        images = (f'<img src="{url}" alt="{name}">' for name, url in urls.items())
        plots.append(f"<h2>{html.escape(', '.join(place))}</h2>{''.join(images)}")
    head = html.escape(_HEAD.format(judge=judge)) + (f"</p><p>{html.escape(note)}" if note else "")
    return _PAGE.format(head=head, tables="\n".join(tables), plots="\n".join(plots))


def compare(first: Path, second: Path) -> str:
    """What two runs have in common, side by side, as a Markdown table.

    Raises:
        SettingsError: A directory holds no metrics, or nothing in common with the other.
    """
    old, new = (
        {(line["method"], line["attack"], line["dataset"]): line for line in _figures(path)} for path in (first, second)
    )
    shared = [key for key in old if key in new]
    if not shared:
        raise SettingsError(f"{first} and {second} have no method, attack and dataset in common")
    table = ["| method | attack | dataset | unsafe | TFLOP |", "|---|---|---|---|---|"]
    for key in shared:
        a, b = old[key], new[key]
        table.append(
            f"| {' | '.join(key)} | {_cell(a, 'unsafe')} → {_cell(b, 'unsafe')} "
            f"| {_cell(a, 'tflops')} → {_cell(b, 'tflops')} |"
        )
    return "\n".join([*table, ""])


def write_report(
    directory: Path, lines: Sequence[Row], judge: str, note: str = "", sections: Sequence[tuple[str, Table]] = ()
) -> str:
    """Write `metrics.json`, `report.md`, `report.html` and a PNG a plot, and return the Markdown."""
    text = markdown(lines, judge, note, sections)
    plain = [{key: None if _empty(value) else value for key, value in line.items()} for line in lines]
    directory.mkdir(parents=True, exist_ok=True)
    record = {"judge": judge, "note": note, "figures": plain, "sections": dict(sections)}
    write_json(directory / "metrics.json", record)
    (directory / "report.md").write_text(text, encoding="utf-8")
    pictures = {place: {name: as_png(draw(some)) for name, draw in PLOTS.items()}
                for place, some in attacked(lines).items()}  # fmt: skip
    (directory / "report.html").write_text(as_html(lines, judge, pictures, note, sections), encoding="utf-8")
    for place, drawn in pictures.items():
        for name, png in drawn.items():
            (directory / f"{'-'.join((*place, name)).replace(' ', '-')}.png").write_bytes(png)
    return text


def _figures(directory: Path) -> list[Row]:
    try:
        figures: list[Row] = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))["figures"]
    except OSError as error:
        raise SettingsError(f"{directory} holds no metrics.json: evaluate or rescore it first") from error
    return figures


def _as_markdown(table: Sequence[Sequence[str]]) -> str:
    titles, *rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in (titles, ["---"] * len(titles), *rows))


def _as_html(table: Sequence[Sequence[str]]) -> str:
    rows = (
        f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
        for tag, row in zip(["th", *["td"] * len(table)], table, strict=False)
    )
    return f"<table>{''.join(rows)}</table>"


def _table(lines: Sequence[Row]) -> list[list[str]]:
    shown = [(key, title) for key, title in _COLUMNS if any(not _empty(line[key]) for line in lines)]
    return [[title for _, title in shown], *([_cell(line, key) for key, _ in shown] for line in lines)]


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
