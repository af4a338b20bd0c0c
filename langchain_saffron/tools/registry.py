"""The forms of tool calls by name. Add your own with `register_tool_format`."""

from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.tools.base import ToolFormat
from langchain_saffron.tools.json_calls import HERMES, LLAMA
from langchain_saffron.tools.response_template import RESPONSE_TEMPLATE

# from the last one on, they are asked whether a template is theirs: what can be constrained comes before what cannot
_formats: dict[str, ToolFormat] = {form.name: form for form in (RESPONSE_TEMPLATE, LLAMA, HERMES)}


def register_tool_format(form: ToolFormat) -> None:
    """Make a form known under its name; one that comes later is asked first whether a template is for it."""
    _formats.pop(form.name, None)
    _formats[form.name] = form


def get_tool_format(name: str) -> ToolFormat:
    """The form of that name.

    Raises:
        SettingsError: There is none.
    """
    if name not in _formats:
        raise SettingsError(f"tool_format: {name!r} is not one of {', '.join(map(repr, tool_format_names()))}")
    return _formats[name]


def tool_format_names() -> list[str]:
    """The names of all forms, those first that are asked first."""
    return [*reversed(_formats)]


def detect_tool_format(source: str, tokenizer: Any) -> ToolFormat | None:
    """The form that a chat template is for, if it is known.

    Args:
        source: The template's text.
        tokenizer: Its tokenizer; `None` where it is not loaded.
    """
    return next((form for form in reversed(_formats.values()) if form.detect(source, tokenizer)), None)
