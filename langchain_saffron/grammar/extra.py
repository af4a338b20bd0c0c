"""Whether grammars can be enforced here: `llguidance` comes with the extra `agents`."""

from importlib.util import find_spec

from langchain_saffron.errors import SettingsError


def grammars_available() -> bool:
    """Whether llguidance is installed."""
    return find_spec("llguidance") is not None


def require_grammars() -> None:
    """Check that llguidance is installed.

    Raises:
        SettingsError: It is not.
    """
    if not grammars_available():
        raise SettingsError(
            "tools, response_format and structured output need llguidance: pip install 'langchain-saffron[agents]'"
        )
