"""What commands that ask a guard share: its options, and functions named as `module:function`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_saffron.errors import SettingsError

if TYPE_CHECKING:
    from langchain_saffron.templates.guard_prompt import GuardPrompt

Guard = Annotated[
    str | None,
    typer.Option(
        help="How a guard is asked: llama-guard-3, llama-guard-4, shieldgemma, granite-guardian, wildguard, "
        "qwen3guard, chat (its own chat template), or a JSON file with the fields of GuardPrompt. By default what the "
        "model's name suggests."
    ),
]
Safe = Annotated[
    str | None, typer.Option(help="The token (of a classifier: the label) that means safe, in place of the usual.")
]
Unsafe = Annotated[str | None, typer.Option(help="The one that means unsafe.")]


def guard_prompt(guard: str | None) -> "str | GuardPrompt | None":
    """What `--guard` says: a preset's name, or the contents of a file.

    Raises:
        ModelLoadError: The file holds no such question.
    """
    from langchain_saffron.templates.guard_prompt import GuardPrompt

    return GuardPrompt.of_file(Path(guard)) if guard is not None and Path(guard).is_file() else guard


def named_function(option: str, text: str | None) -> Callable[..., Any] | None:
    """The function that `MODULE:FUNCTION` names; `None` where the text names a model.

    Modules are also looked for in the current directory, behind all that is installed, so that no file there can
    stand in for a library.

    Args:
        option: Which option names it, for errors.
        text: What was given.

    Raises:
        SettingsError: There is no such module or function, or the module fails while it is imported.
    """
    module, _, name = (text or "").partition(":")
    # organisation/repository:file.gguf is a file on the hub
    if not name or name.lower().endswith(".gguf") or Path(text or "").exists():
        return None
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        loaded = importlib.import_module(module)
    # its own code runs, which may raise anything
    except Exception as error:
        raise SettingsError(
            f"{option}: {text} cannot be imported: {type(error).__name__}: {error} (modules are looked for among what "
            "is installed, and in the current directory)"
        ) from error
    function = getattr(loaded, name, None)
    if function is None:
        raise SettingsError(f"{option}: {text}: there is no {name} in {getattr(loaded, '__file__', None) or module}")
    if not callable(function):
        raise SettingsError(f"{option}: {text} is of the type {type(function).__name__}, no function")
    return function
