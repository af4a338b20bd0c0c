"""Whether grammars can be enforced here: `llguidance` comes with the extra `agents`."""

import importlib
from importlib.util import find_spec
from typing import Any

from langchain_saffron.errors import ExtraRequiredError


def grammars_available() -> bool:
    """Whether llguidance is installed."""
    try:
        return find_spec("llguidance") is not None
    except (ImportError, ValueError):
        return False


def require_grammars() -> None:
    """Check that llguidance is installed.

    Raises:
        ExtraRequiredError: It is not.
    """
    if not grammars_available():
        raise _missing()


def load_llguidance() -> Any:
    """Import llguidance.

    Raises:
        ExtraRequiredError: It is not installed, or does not load.
    """
    try:
        return importlib.import_module("llguidance")
    except ImportError as error:
        raise _missing() from error


def _missing() -> ExtraRequiredError:
    return ExtraRequiredError(
        "grammars, structured output and tool calls need llguidance: pip install 'langchain-saffron[agents]'"
    )
