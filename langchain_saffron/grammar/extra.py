"""Whether grammars can be enforced here: `llguidance` comes with the extra `agents`."""

from importlib.util import find_spec

from langchain_saffron.errors import ExtraRequiredError


def grammars_available() -> bool:
    """Whether llguidance is installed."""
    return find_spec("llguidance") is not None


def require_grammars() -> None:
    """Check that llguidance is installed.

    Raises:
        ExtraRequiredError: It is not.
    """
    if not grammars_available():
        raise ExtraRequiredError(
            "grammars, structured output and tool calls need llguidance: pip install 'langchain-saffron[agents]'"
        )
