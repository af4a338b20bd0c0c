"""A run's figures, plots and some answers as one HTML file, for wide and narrow, light and dark screens."""

import base64
import html

from langchain_saffron.evaluation.answers import Shown, shortened, verdict_of, visible
from langchain_saffron.evaluation.cells import figures_table
from langchain_saffron.evaluation.findings import Findings
from langchain_saffron.evaluation.markdown_report import HEAD, WARNING
from langchain_saffron.evaluation.plots import DARK, LIGHT
from langchain_saffron.evaluation.tables import Table, figure_tables

# PNG files for light and dark screens, by dataset and attack, and by the plot's name
Pictures = dict[tuple[str, str], dict[str, tuple[bytes, bytes]]]

_STYLE = f"""
:root {{ color-scheme: light dark; --page: {LIGHT.paper}; --text: {LIGHT.ink};
  --line: #ddd; --dim: #5f6368; --bad: #b3261e }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: {DARK.paper}; --text: {DARK.ink}; --line: #3a3d42; --dim: #a8abb0; --bad: #ff8a80 }}
}}
body {{ font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
  background: var(--page); color: var(--text) }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
td, th {{ border-bottom: 1px solid var(--line); padding: .3rem .8rem; text-align: left; white-space: nowrap }}
.wide {{ overflow-x: auto }}
.plots, .answers {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)) }}
.answers {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }}
img {{ width: 100%; height: auto }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem }}
dt, .dim {{ color: var(--dim) }}
dd {{ margin: 0; overflow-wrap: anywhere }}
h3 {{ font-size: 1rem; margin: .6rem 0 0 }}
p.text {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 }}
.given {{ border-bottom: 2px dotted var(--dim) }}
.unsafe {{ color: var(--bad) }}
details {{ border-top: 1px solid var(--line); padding: .5rem 0 }}
summary {{ cursor: pointer; overflow-wrap: anywhere }}
@media (max-width: 40rem) {{
  body {{ margin: 1rem auto }}
  dl {{ grid-template-columns: minmax(0, 1fr); gap: 0 }}
  dd {{ margin-bottom: .5rem }}
  td, th {{ padding: .3rem .5rem }}
}}
"""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>saffron evaluate</title>
<style>{style}</style>
<h1>saffron evaluate</h1>
{body}
</html>
"""


def as_html(found: Findings, pictures: Pictures) -> str:
    """The figures of a run as one HTML file, with the plots of every attack on every dataset inside."""
    body = ["<dl>", *(f"<dt>{_text(title)}</dt><dd>{_text(value)}</dd>" for title, value in found.facts), "</dl>"]
    body.append(f"<p>{_text(HEAD.format(judge=found.judge))}</p>")
    if found.note:
        body.append(f"<p><strong>{_text(found.note)}</strong></p>")
    body.append(_table(figures_table(found.lines)))
    tables = (*figure_tables(found.lines), *found.sections)
    body += (f"<h2>{_text(title)}</h2>{_table(table)}" for title, table in tables)
    for place, drawn in pictures.items():
        body += [f'<h2>{_text(", ".join(place))}</h2><div class="plots">', *map(_picture, drawn.items()), "</div>"]
    if found.answers:
        body += ["<h2>Some answers</h2>", f'<p class="dim">{WARNING}</p>', *map(_folded, found.answers)]
    return _PAGE.format(style=_STYLE, body="\n".join(body))


def _picture(drawn: tuple[str, tuple[bytes, bytes]]) -> str:
    name, pngs = drawn
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in pngs)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="Attack success over {_text(name)}"></picture>'
    )


def _folded(shown: Shown) -> str:
    parts = [f"<details><summary>{_text(shown.title)} ({shown.outcome})</summary>"]
    parts += ["<h3>Asked</h3>", f'<p class="text">{_text(shortened(shown.request))}</p>']
    given = ""
    if shown.prefill:
        given = f'<span class="given">{_text(shortened(shown.prefill))}</span>'
        parts.append('<p class="dim">Underlined is what was put into the model\'s mouth.</p>')
    parts.append('<div class="answers">')
    for row in shown.answers:
        verdict = f'<span class="{"unsafe" if row["unsafe"] else "dim"}">{_text(verdict_of(row))}</span>'
        answer = f'<p class="text">{given}{_text(shortened(row["answer"]))}</p>'
        parts.append(f"<div><h3>{_text(row['method'])}</h3>{verdict}{answer}</div>")
    return "".join([*parts, "</div></details>"])


def _text(text: str) -> str:
    return html.escape(visible(text))


def _table(table: Table) -> str:
    rows = (
        f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in row)}</tr>"
        for tag, row in zip(["th", *["td"] * len(table)], table, strict=False)
    )
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'
