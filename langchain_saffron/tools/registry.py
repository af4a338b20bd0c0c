"""The forms of tool calls by name. Add your own with `register_tool_format`."""

from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.tools.base import ToolFormat
from langchain_saffron.tools.form_calls import FormCalls
from langchain_saffron.tools.form_probe import probe_form
from langchain_saffron.tools.json_calls import HERMES, LLAMA
from langchain_saffron.tools.known_forms import KNOWN, as_models_write, known_name, own_format
from langchain_saffron.tools.response_template import RESPONSE_TEMPLATE

# from the last one on, they are asked whether a template is theirs: what can be constrained comes before what cannot
_formats: dict[str, ToolFormat] = {form.name: form for form in (RESPONSE_TEMPLATE, *KNOWN, LLAMA, HERMES)}
_shipped = frozenset(_formats)


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

    Forms of your own are asked first. Then the template itself is: it renders calls whose texts occur nowhere else, and
    the form is what stands around them. Templates that write no calls are told by a marker.

    Args:
        source: The template's text.
        tokenizer: Its tokenizer; `None` where it is not loaded.
    """
    forms = [*reversed(_formats.values())]
    shipped = [form for form in forms if form.name in _shipped]
    own = next((form for form in forms if form.name not in _shipped and form.detect(source, tokenizer)), None)
    if own is not None:
        return own
    probed = probe_form(source, tokenizer)
    if probed is not None:
        return own_format(probed) or FormCalls(known_name(probed), as_models_write(probed))
    return next((form for form in shipped if form.detect(source, tokenizer)), None)
