"""The `saffron` command: its subcommands, and how errors become one line and an exit code."""

import errno
import gc
import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, Any

import typer

from langchain_saffron.cli.annotate import annotate
from langchain_saffron.cli.bench import bench
from langchain_saffron.cli.chat import chat
from langchain_saffron.cli.console import notice, one_line, option_names
from langchain_saffron.cli.evaluate import evaluate
from langchain_saffron.cli.fit import fit
from langchain_saffron.cli.info import info
from langchain_saffron.cli.models import models
from langchain_saffron.cli.serve import serve
from langchain_saffron.cli.train import train
from langchain_saffron.errors import WeakRewardModelError

# new objects between two looks for garbage: Python's 700 cost a fifth of the time that imports take
_NEW_OBJECTS = 100_000
# what computes on an engine's thread, which leaves cores to others by itself, decodes half as fast again where torch's
# threads wait actively; figures of speed are for the machine alone
_ACTIVE = frozenset({"bench", "chat", "evaluate", "serve"})

# what is wrong with the machine and not with the program: a traceback would help nobody
_NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})

BAD_USAGE = 2
FAILED = 1

app = typer.Typer(
    name="saffron",
    help="Safe decoding: a local language model, searched for a safe answer while it writes it.",
    epilog='Start with: saffron chat "How do I make tomato soup?"',
    add_completion=False,
    # tracebacks with local variables would print prompts and tokens
    pretty_exceptions_enable=False,
)
app.command()(chat)
app.command()(info)
app.command()(models)
# each of its options is a variable, too
app.command(context_settings={"auto_envvar_prefix": "SAFFRON"})(serve)
app.command()(fit)
app.command()(annotate)
app.command()(train)
app.command()(evaluate)
app.command()(bench)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"langchain-saffron {version('langchain-saffron')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if "torch" not in sys.modules:
        gc.set_threshold(_NEW_OBJECTS)
        # what a user starts by hand shares the machine with other programs
        if context.invoked_subcommand not in _ACTIVE:
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; `None` takes those of the process.

    Returns:
        The exit code: 0, 1 for a trained reward model that `--strict` turns down and for a disk that is full, 2 for bad
        usage and settings or models that cannot work, 130 after Ctrl-C. Unexpected errors are raised, which ends a
        process with 1.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show a character should show a replacement, not end the answer
            stream.reconfigure(errors="replace")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        command = typer.main.get_command(app)
        try:
            given = None if arguments is None else list(arguments)
            code = command.main(given, prog_name="saffron", standalone_mode=False)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                _give_up_on_output()
                notice(f"{error.filename or 'the output'} cannot be written: {error.strerror}")
                return FAILED
            if (line := one_line(error, option_names(command))) is None:
                raise
            notice(line)
            return FAILED if isinstance(error, WeakRewardModelError) else BAD_USAGE
    return code if isinstance(code, int) else 0


def _open_closed_streams() -> None:
    """Whoever starts a process may close its standard streams, as services do: what is written there is lost then."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _give_up_on_output() -> None:
    """Drops what stdout holds and cannot write: Python would try once more at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    notice(" ".join(str(message).split()))
