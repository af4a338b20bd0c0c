"""What the subcommands share: the options that say which models, and how these are loaded without noise."""

import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from langchain_saffron.errors import SaffronError, SettingsError
from langchain_saffron.settings import describe_validation

if TYPE_CHECKING:
    from langchain_saffron.chat_models import ChatSaffron

# fields of ChatSaffron, and of annotating and training, that error messages may name, and what sets them here
OPTIONS = {
    name: "--" + name.replace("_", "-")
    for name in (
        "model",
        "reward_model",
        "reward_base",
        "device",
        "dtype",
        "chat_template",
        "effort",
        "width",
        "max_tokens",
        "temperature",
        "seed",
        "refusal_threshold",
        "max_tflops",
        "max_seconds",
        "max_reward_calls",
        "prm",
        "guard",
        "safe",
        "unsafe",
        "turns",
        "part",
        "limit",
        "shard_size",
        "batch_size",
        "base",
        "held_out_share",
        "epochs",
        "micro_batch_size",
        "learning_rate",
        "bias_learning_rate",
        "rank",
        "alpha",
        "precision",
        "mixed_precision",
        "checkpoint_every",
        "out",
        "method",
        "attack",
        "judge",
    )
} | {"on_exhausted": "--on-budget", "hf_token": "HF_TOKEN"}

# a field's name in an error message, as `name=` anywhere or as `name:` in front, is an option here
_NAMES = "|".join(OPTIONS)
_FIELD = re.compile(rf"\b({_NAMES})=|(?:^|(?<=; ))({_NAMES})(?=: )")

MODELS = "Models"

# seconds between lines about progress where there is no terminal
_TELL_EVERY = 30

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH|ID",
        help="The policy: a directory or a Hugging Face id. Without it the small embedded kitchen models answer.",
        rich_help_panel=MODELS,
    ),
]
RewardModel = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|ID",
        help="The multifurcation reward model (MRM) that guides the search; needed with --model, "
        "except for --effort off.",
        rich_help_panel=MODELS,
    ),
]
RewardBase = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|ID",
        help="The MRM's base model, where the MRM names none that can be found.",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, …; by default the accelerator if there is one.", rich_help_panel=MODELS),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16 or auto (the checkpoint's own); by default float32 on a CPU, else auto.",
        rich_help_panel=MODELS,
    ),
]


def make_chat(options: dict[str, Any], *, progress: bool) -> "ChatSaffron":
    """A `ChatSaffron` with these fields; the weights are loaded when they are first needed.

    Args:
        options: Fields; `None` stands for not given.
        progress: Whether loading a real model may show progress bars.

    Raises:
        ValidationError: A value is not allowed.
    """
    from langchain_saffron.chat_models import ChatSaffron

    warnings.filterwarnings("ignore", message="no model= was given")
    given = {name: value for name, value in options.items() if value is not None}
    if not str(given.get("reward_model", "-")).strip():
        raise SettingsError("reward_model: an empty string names no model")
    chat = ChatSaffron(**given)
    if chat.model is None:
        notice("the small embedded kitchen models answer: a toy world of recipes; --model takes a real one")
    quieten(keep_progress=progress and chat.model is not None, keep_warnings=chat.model is not None)
    return chat


def one_line(error: Exception) -> str | None:
    """What to tell a user who can mend it; `None` for errors that nobody expected."""
    if isinstance(error, ValidationError):
        text = describe_validation(error)
    elif isinstance(error, SaffronError):
        text = str(error)
    elif hasattr(error, "format_message"):
        # typer's own complaint; its class has moved between modules from version to version
        where = getattr(getattr(error, "ctx", None), "command_path", "saffron")
        text = " ".join(error.format_message().replace("Value error, ", "").split())
        return f"{text.removesuffix('.')} (see {where} --help)"
    else:
        return None
    named = _FIELD.sub(lambda match: f"{OPTIONS[match[1] or match[2]]} ", text)
    return " ".join(named.split()).replace(" :", ":")


@contextmanager
def progress_bar(what: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr with rate and time left; nothing but a line now and then where that is no terminal.

    Yields:
        A function of (done, value, total): how much of the work is done; for a unit such as `rewards/s` the sum of
            what is counted, else a value to show; and the total, where it was not known.
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
    first: float | None = None
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total, shown="")

        def update(done: int, value: float, total: int | None = total) -> None:
            nonlocal first, began, told
            if first is None:
                # what an earlier run had done is no part of this one's speed
                first, began = value, time.monotonic()
            seconds = max(time.monotonic() - began, 1e-9)
            rate = f"{(value - first) / seconds:,.0f} {unit}" if unit.endswith("/s") else f"{unit} {value:.4f}"
            progress.update(task, completed=done, total=total, shown=rate)
            if not console.is_terminal and time.monotonic() - told >= _TELL_EVERY:
                told = time.monotonic()
                notice(f"{what}: {done:,} of {total or 0:,}, {rate}")

        yield update


def notice(text: str) -> None:
    """One line on stderr."""
    sys.stdout.flush()
    print(f"saffron: {text}", file=sys.stderr, flush=True)


def quieten(keep_progress: bool, keep_warnings: bool) -> None:
    """Silence the libraries' own progress bars and warnings where they would only disturb."""
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    # without a network it reports every retry; what comes of them is an error of its own
    hub_logging.set_verbosity_error()
    if not keep_progress:
        logging.disable_progress_bar()
        disable_progress_bars()
    if not keep_warnings:
        logging.set_verbosity_error()
