"""`saffron bench`: how fast the search is, as ratios within one run."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from langchain_saffron.cli.console import notice
from langchain_saffron.errors import SettingsError


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small models, to see that everything runs; the figures mean nothing.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Measure only search, sharp, beams, chats, grammars, bfloat16, int8 or annotation; several.",
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            min=512, help="Tokens that the policy of the part sharp knows: SmolLM2 has 49,152, Llama 3 128,256."
        ),
    ] = None,
    peer: Annotated[
        Literal["llama.cpp"] | None,
        typer.Option(help="Instead, measure plain decoding of a GGUF file beside llama.cpp (extra: peer)."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The GGUF file for --peer; by default SmolLM2's.")
    ] = None,
    into: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure the search against bare forwards and against transformers' generate.

    Policy and reward model are random: 115M and 53M parameters.
    Ratios within one run compare; absolute times depend on the machine and on what else it does.

    For example:

    saffron bench

    saffron bench --quick --json figures.json

    saffron bench --only search --only int8

    saffron bench --peer llama.cpp
    """
    from rich.console import Console
    from rich.table import Table

    from langchain_saffron.bench import FULL, QUICK, Measured, Report, run
    from langchain_saffron.bench.peer import run_peer

    if peer is None and model is not None:
        raise SettingsError("model: the bench makes its own models, but for --peer")
    if peer is not None and only:
        raise SettingsError("only: --peer measures nothing but plain decoding")
    if peer is not None and vocabulary is not None:
        raise SettingsError("vocabulary: the model of --peer has its own")
    scenario = QUICK if quick else FULL
    if vocabulary is not None:
        scenario = replace(scenario, sharp_vocabulary=vocabulary)
    report = Report()
    for item in run(scenario, device, only or ()) if peer is None else run_peer(model, quick):
        if isinstance(item, Report):
            report = item
        elif isinstance(item, Measured):
            # at once: who ends the bench early keeps what it has measured
            print(f"{item.name}: {item.seconds:.3f} s", flush=True)
        else:
            notice(item)
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
