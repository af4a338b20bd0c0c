"""A table of chat templates: what is right of each, by comparison with transformers.

`python -m integration_tests.template_table FOLDER [--tokenizers FOLDER]` prints it for the `*.jinja` files of a folder.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from transformers.utils import chat_template_utils

from integration_tests import template_prompts
from integration_tests.template_calls import CallCheck
from integration_tests.template_cell import Cell, Wrong
from integration_tests.template_reference import Reference, Unrendered, small_tokenizers
from langchain_saffron.errors import SaffronError
from langchain_saffron.interface.prompts import PromptRenderer

COLUMNS = ("plain", "system", "prefill", "auto", "any", "named", "history", "thoughts")
_PROMPTS = {name: getattr(template_prompts, name) for name in ("plain", "system", "prefill", "thoughts")}
_RANKS = ("not offered", "right", "wrong")
_SIGNS = {"right": "✓", "not offered": "–", "wrong": "✗"}

Row = dict[str, Cell]


def measure(source: str, tokenizers: Iterable[Any] = ()) -> Row:
    """One template in all respects.

    Args:
        source: Its text.
        tokenizers: Whose ids are compared, beside those of small ones.
    """
    row: Row = {}
    with _one_moment():
        for tokenizer in small_tokenizers(source):
            _add(row, _cells(tokenizer, source, COLUMNS))
        for tokenizer in tokenizers:
            _add(row, _cells(tokenizer, source, tuple(_PROMPTS)))
    return row


def wrong_columns(row: Row) -> set[str]:
    """The respects in which a template is wrong."""
    return {column for column, cell in row.items() if cell.state == "wrong"}


def share(rows: Mapping[str, Row]) -> float:
    """The share of templates of which nothing is wrong."""
    return sum(not wrong_columns(row) for row in rows.values()) / len(rows)


def as_markdown(rows: Mapping[str, Row], states: Sequence[str] = ("not offered", "wrong")) -> str:
    """The table, and below it what is wrong."""
    lines = [f"| template | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    lines += [f"| {name} | {' | '.join(_SIGNS[row[c].state] for c in COLUMNS)} |" for name, row in rows.items()]
    cells = [cell for row in rows.values() for cell in row.values()]
    counts = {state: sum(cell.state == state for cell in cells) for state in _SIGNS}
    lines += ["", f"{len(rows)} templates, {share(rows):.1%} with nothing wrong; cells: {counts}", ""]
    for name, row in rows.items():
        lines += [f"- {name}, {c}: {row[c].state}: {row[c].reason}" for c in COLUMNS if row[c].state in states]
    return "\n".join(lines)


def templates_in(folder: Path) -> dict[str, str]:
    """The chat templates of a folder and the folders in it, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.jinja"))}


@contextmanager
def _one_moment() -> Iterator[None]:
    """Time stands still: some templates write the second at which they are rendered."""
    now = datetime.now()
    with patch.object(chat_template_utils, "datetime", SimpleNamespace(now=lambda: now)):
        yield


def _cells(tokenizer: Any, source: str, columns: Iterable[str]) -> Row:
    renderer, reference = PromptRenderer(tokenizer, chat_template=source), Reference(tokenizer, source)
    calls: list[CallCheck] = []

    def check() -> CallCheck:
        if not calls:
            calls.append(CallCheck(renderer, reference))
        return calls[0]

    measured: dict[str, Callable[[], Cell]] = {
        "auto": lambda: check().choice("auto"),
        "any": lambda: check().choice("any"),
        "named": lambda: check().choice("weather"),
        "history": lambda: check().history(),
    }
    measured |= {name: lambda made=made: made(renderer, reference) for name, made in _PROMPTS.items()}
    row = {"plain": _cell(measured["plain"])}
    if row["plain"].state == "not offered":
        return dict.fromkeys(columns, row["plain"])
    return row | {column: _cell(measured[column]) for column in columns if column != "plain"}


def _cell(made: Callable[[], Cell]) -> Cell:
    try:
        return made()
    except (Wrong, Unrendered, SaffronError) as error:
        return Cell.wrong(f"{type(error).__name__}: {' '.join(str(error).split())}"[:600])


def _add(row: Row, more: Row) -> None:
    for column, cell in more.items():
        if column not in row or _RANKS.index(cell.state) > _RANKS.index(row[column].state):
            row[column] = cell


def main() -> None:
    """Print the table of a folder."""
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizers", type=Path, help="a folder of tokenizers' folders")
    parser.add_argument("--wrong", action="store_true", help="list only what is wrong")
    parser.add_argument("--only", default="", help="only templates whose names hold this")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    folders = sorted(given.tokenizers.iterdir()) if given.tokenizers else []
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
    sources = {name: source for name, source in templates_in(given.folder).items() if given.only in name}
    rows = {name: measure(source, tokenizers) for name, source in sources.items()}
    print(as_markdown(rows, ("wrong",) if given.wrong else ("not offered", "wrong")))


if __name__ == "__main__":
    main()
