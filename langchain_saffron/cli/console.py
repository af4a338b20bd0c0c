"""What the commands say: notices on stderr, errors in one line, and libraries kept quiet."""

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from langchain_saffron.errors import SaffronError
from langchain_saffron.settings import describe_validation

# seconds after which a user is told what goes on
SLOW = 1.0


def one_line(error: Exception, names: Mapping[str, str] | None = None) -> str | None:
    """What to tell a user who can mend it; `None` for errors that nobody expected.

    Args:
        error: What was raised.
        names: What sets a field here, as `option_names` gives it: errors name fields of Python.
    """
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
    return " ".join(_with_options(text, names or {}).split()).replace(" :", ":")


def option_names(command: Any) -> dict[str, str]:
    """What sets a field of Python on the command line: of a command, or of all commands of a group.

    Args:
        command: A click command.
    """
    names = {}
    for one in (command, *getattr(command, "commands", {}).values()):
        for parameter in one.params:
            if parameter.param_type_name == "option":
                names[parameter.name] = max(parameter.opts, key=len)
    if "on_budget" in names:
        names["on_exhausted"] = names["on_budget"]
    return {**names, "hf_token": "HF_TOKEN"}


def _with_options(text: str, names: Mapping[str, str]) -> str:
    """`name=` anywhere, or `name:` in front, becomes the option that sets the field; flags have no value."""
    any_of = "|".join(map(re.escape, names))
    if not any_of:
        return text
    flag, field = rf"\b({any_of})=True\b", rf"\b({any_of})=|(?:^|(?<=; ))({any_of})(?=: )"
    text = re.sub(flag, lambda match: names[match[1]], text)
    return re.sub(field, lambda match: f"{names[match[1] or match[2]]} ", text)


def notice(text: str) -> None:
    """One line on stderr."""
    sys.stdout.flush()
    print(f"saffron: {text}", file=sys.stderr, flush=True)


@contextmanager
def told_if_slow(text: str) -> Iterator[None]:
    """A line on stderr where what is done within takes more than a second."""
    timer = threading.Timer(SLOW, notice, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def quieten(keep_progress: bool, keep_warnings: bool, keep_downloads: bool = False) -> None:
    """Silence the libraries' own progress bars and warnings where they would only disturb.

    Args:
        keep_progress: Whether all bars stay.
        keep_warnings: Whether warnings and tables stay.
        keep_downloads: Whether the bars of downloads stay, which may take long.
    """
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    # without a network it reports every retry; what comes of them is an error of its own
    hub_logging.set_verbosity_error()
    if not keep_progress:
        logging.disable_progress_bar()
        disable_progress_bars()
    if keep_downloads:
        # transformers silences these too
        enable_progress_bars()
    if not keep_warnings:
        logging.set_verbosity_error()
