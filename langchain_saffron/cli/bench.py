"""`saffron bench`: how fast the search is, as ratios within one run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from langchain_saffron.cli.console import notice


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small models, to see that everything runs; the figures mean nothing.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    into: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure the search against bare forwards and against transformers' generate.

    Policy and reward model are random: 115M and 53M parameters.
    Ratios within one run compare; absolute times depend on the machine and on what else it does.

    For example:

    saffron bench

    saffron bench --quick --json figures.json
    """
    from rich.console import Console
    from rich.table import Table

    from langchain_saffron.bench import FULL, QUICK, Report, run

    report = Report()
    for item in run(QUICK if quick else FULL, device):
        if isinstance(item, Report):
            report = item
        else:
            notice(f"measuring: {item}")
    console = Console()
    ratios = Table("ratio", "measured", "reach")
    for ratio in report.ratios:
        ratios.add_row(
            ratio.name,
            f"{ratio.value:.2f}" if ratio.value >= 0.01 else f"{ratio.value:.0e}",
            f"{'≤' if ratio.at_most else '≥'} {ratio.reach:g}",
        )
    console.print(ratios)
    times = Table("seconds", "")
    for name, value in report.seconds.items():
        times.add_row(name, f"{value:.3f}" if value >= 0.01 else f"{value:.5f}")
    for name, value in report.breakdown.items():
        times.add_row(f"search, width 16: {name}", f"{value:.3f}")
    console.print(times)
    if into is not None:
        into.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
