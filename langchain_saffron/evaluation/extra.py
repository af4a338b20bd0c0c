"""Whether what an evaluation needs is installed."""

from importlib.util import find_spec

from langchain_saffron.errors import ExtraRequiredError


def require_eval_extra() -> None:
    """Refuse to begin without the `eval` extra.

    Raises:
        ExtraRequiredError: Something of it is missing.
    """
    missing = [name for name in ("pyarrow", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ExtraRequiredError(f"evaluating needs {', '.join(missing)}: pip install 'langchain-saffron[eval]'")
