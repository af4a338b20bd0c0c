"""Figures as Markdown, JSON and one HTML file."""

import json
from pathlib import Path

from langchain_saffron.errors import SettingsError
from langchain_saffron.evaluation.cells import cell, is_empty
from langchain_saffron.evaluation.findings import Findings
from langchain_saffron.evaluation.html_report import as_html
from langchain_saffron.evaluation.markdown_report import as_markdown, markdown
from langchain_saffron.evaluation.metrics import Row, attacked
from langchain_saffron.evaluation.plots import as_png, plots_of
from langchain_saffron.runtime.files import write_json


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
    table = [["method", "attack", "dataset", "unsafe", "TFLOP"]]
    for key in shared:
        a, b = old[key], new[key]
        table.append([*key, *(f"{cell(a, figure)} → {cell(b, figure)}" for figure in ("unsafe", "tflops"))])
    return as_markdown(table) + "\n"


def write_report(directory: Path, found: Findings) -> str:
    """Write `metrics.json`, `report.md`, `report.html` and a PNG a plot.

    Args:
        directory: Where they go.
        found: What they say.

    Returns:
        The Markdown.
    """
    text = markdown(found)
    plain = [{key: None if is_empty(value) else value for key, value in line.items()} for line in found.lines]
    directory.mkdir(parents=True, exist_ok=True)
    record = {"judge": found.judge, "note": found.note, "about": dict(found.facts), "figures": plain}
    write_json(directory / "metrics.json", {**record, "sections": dict(found.sections)})
    (directory / "report.md").write_text(text, encoding="utf-8")
    pictures = {
        place: {name: (as_png(plot), as_png(plot, dark=True)) for name, plot in plots_of(some).items()}
        for place, some in attacked(found.lines).items()
    }
    page = as_html(found, pictures)
    (directory / "report.html").write_text(page, encoding="utf-8")
    for place, drawn in pictures.items():
        for name, (png, _) in drawn.items():
            (directory / f"{'-'.join((*place, name)).replace(' ', '-')}.png").write_bytes(png)
    return text


def _figures(directory: Path) -> list[Row]:
    try:
        figures: list[Row] = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))["figures"]
    except OSError as error:
        raise SettingsError(f"{directory} holds no metrics.json: evaluate or rescore it first") from error
    return figures
