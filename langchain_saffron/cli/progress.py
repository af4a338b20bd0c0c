"""Progress of long work on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import isnan

from langchain_saffron.cli.console import notice

# seconds between lines about progress where there is no terminal
_TELL_EVERY = 30


@contextmanager
def progress_bar(what: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr with rate and time left; nothing but a line now and then where that is no terminal.

    Yields:
        A function of (done, value, total): how much of the work is done; for a unit such as `rewards/s` the sum of
            what is counted, else a value to show, NaN for none; and the total, where it was not known. Another total is
            other work, whose pace is counted from there.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = told = time.monotonic()
    first: tuple[int, float, int | None] | None = None
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total, shown="")

        def update(done: int, value: float, total: int | None = total) -> None:
            nonlocal first, began, told
            if first is None or first[2] != total:
                # what an earlier run had done is no part of this one's speed
                first, began = (done, value, total), time.monotonic()
            seconds = max(time.monotonic() - began, 1e-9)
            if unit.endswith("/s"):
                rate = f"{(value - first[1]) / seconds:,.0f} {unit}"
            else:
                rate = "" if isnan(value) else f"{unit} {value:.4f}"
            progress.update(task, completed=done, total=total, shown=rate)
            if not console.is_terminal and time.monotonic() - told >= _TELL_EVERY:
                told = time.monotonic()
                left = _left(done - first[0], done, total, seconds)
                notice(", ".join(part for part in (f"{what}: {done:,} of {total or 0:,}", rate, left) if part))

        yield update


def _left(new: int, done: int, total: int | None, seconds: float) -> str:
    """How long the rest will take, at the pace so far."""
    if not new or not total:
        return ""
    left = timedelta(seconds=round(seconds * max(0, total - done) / new))
    return f"{left} left"
