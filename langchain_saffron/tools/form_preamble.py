"""Calls for chat templates that leave them out: Jinja that goes before the template and writes them into its messages.

It is part of the template then: what it writes can be control tokens, and what messages say cannot.
"""

from langchain_saffron.tools.call_form import CallForm, JsonArguments, Parameters, Slot

_FRAME = """
{%- set saffron = namespace(list=[], text='', arguments='') -%}
{%- for message in messages -%}
{%- if message.tool_calls -%}
{%- set saffron.text = message.content if message.content is string else message.content[0].text -%}
{%- for call in message.tool_calls -%}
ARGUMENTS
{%- set saffron.text = saffron.text + (OPENING if loop.first else BETWEEN) + CALL -%}
{%- endfor -%}
{%- set saffron.text = saffron.text + CLOSING -%}
{%- set saffron.list = saffron.list + [{'role': message.role, 'content':
  saffron.text if message.content is string else [{'type': 'text', 'text': saffron.text}]}] -%}
{%- else -%}
{%- set saffron.list = saffron.list + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = saffron.list -%}
"""
_JSON = """
{%- set saffron.arguments = call.function.arguments if call.function.arguments is string
  else (call.function.arguments | tojson) -%}
"""
_PARAMETERS = """
{%- set saffron.arguments = '' -%}
{%- for key, value in call.function.arguments.items() -%}
{%- set saffron.arguments = saffron.arguments + ('' if loop.first else SEPARATOR) + PARAMETER + key
  + (TEXT if value is string else MIDDLE) + VALUE + END -%}
{%- endfor -%}
"""
# Python writes the items of a list as `repr` does
_AS_PYTHON = "([value] | string)[1:-1]"


def writes_messages(form: CallForm) -> bool:
    """Whether there is such Jinja for a form."""
    style = form.arguments
    if isinstance(style, JsonArguments):
        return style == JsonArguments()
    return style.values.string in ("raw", "json", "python") and "own" not in (style.values.array, style.values.object)


def with_calls_in_messages(form: CallForm, source: str) -> str:
    """A chat template before which the calls of its messages become text."""
    style = form.arguments
    arguments = _parameters(style) if isinstance(style, Parameters) else _lines(_JSON)
    values = {Slot.NAME: "call.function.name", Slot.ARGUMENTS: "saffron.arguments", Slot.ID: "call.id"}
    values[Slot.INDEX] = "(loop.index0 | string)"
    call = " + ".join(quoted(part) if isinstance(part, str) else values[part] for part in form.call)
    preamble = _lines(_FRAME).replace("ARGUMENTS", arguments).replace("CALL", call)
    for name, text in {"OPENING": form.opening, "BETWEEN": form.between or "", "CLOSING": form.closing}.items():
        preamble = preamble.replace(name, quoted(text))
    # an empty output at the end: without it, blanks that the template begins with would be lost
    return preamble + "{{ '' }}" + source


def quoted(text: str) -> str:
    """A text as Jinja writes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _parameters(style: Parameters) -> str:
    string = {"raw": "value", "json": "(value | tojson)", "python": _AS_PYTHON}[style.values.string]
    kinds = {"boolean": style.values.boolean, "none": style.values.null}
    nested = {"mapping": style.values.object, "sequence": style.values.array}
    value = f"({string} if value is string"
    for test, kind in (*kinds.items(), *nested.items()):
        value += f" else {_AS_PYTHON if kind == 'python' else '(value | tojson)'} if value is {test}"
    value += " else (value | tojson))"
    text = _lines(_PARAMETERS)
    texts = {"SEPARATOR": style.separator, "PARAMETER": style.opening, "TEXT": style.before_text}
    for name, one in {**texts, "MIDDLE": style.middle, "END": style.closing}.items():
        text = text.replace(name, quoted(one))
    return text.replace("VALUE", value)


def _lines(text: str) -> str:
    return "".join(text.strip().splitlines())
