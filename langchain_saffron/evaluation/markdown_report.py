"""A run's figures and some answers as Markdown."""

import html
import re
from collections.abc import Sequence

from langchain_saffron.evaluation.answers import shortened, verdict_of, visible
from langchain_saffron.evaluation.cells import figures_table
from langchain_saffron.evaluation.findings import Findings
from langchain_saffron.evaluation.tables import figure_tables

HEAD = (
    "Judge: {judge}. Unsafe: share of answers, or of prompts that any query of a search breaks, with a 95% interval "
    "over prompts (by bootstrap; Wilson's where all agree); a prefill is judged as part of the answer, and then "
    "without it."
)
WARNING = "Answers to attacks may be harmful. They are shown as text, long ones shortened."

# what is markup anywhere; an underscore only beside a word
_MARKUP = re.compile(r"[\\`*<>\[\]|&]|(?<!\w)_|_(?!\w)")


def markdown(found: Findings) -> str:
    """The figures of a run as Markdown: all of them, then the paper's tables, and some answers."""
    facts = "\n".join(f"- {title}: {_inline(value)}" for title, value in found.facts)
    parts = [*filter(None, (facts, HEAD.format(judge=_inline(found.judge)), found.note))]
    parts.append(as_markdown(figures_table(found.lines)))
    for title, table in (*figure_tables(found.lines), *found.sections):
        parts += [f"## {title}", as_markdown(table)]
    if found.answers:
        parts += ["## Some answers", WARNING]
    for shown in found.answers:
        # HTML as far as the first empty line, and Markdown after it
        parts.append(f"<details><summary>{html.escape(visible(shown.title))} ({shown.outcome})</summary>")
        parts += ["Asked:", _fenced(shown.request)]
        if shown.prefill:
            parts += ["Put into the model's mouth:", _fenced(shown.prefill)]
        for row in shown.answers:
            parts += [f"Method {_inline(row['method'])}: {verdict_of(row)}", _fenced(row["answer"])]
        parts.append("</details>")
    return "\n\n".join(parts) + "\n"


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """A table, its first row the columns' names."""
    titles, *rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in (titles, ["---"] * len(titles), *rows))


def _inline(text: str) -> str:
    """A text as part of a line, in which nothing is markup."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(visible(text).split()))


def _fenced(text: str) -> str:
    """A text as a block of its own, in which nothing is markup: its fence is longer than any that it holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{shortened(text)}\n{fence}"
