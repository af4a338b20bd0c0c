"""Forms of calls by name, as their models' templates and cards give them.

What a chat template writes itself is found by asking it; these are for templates that show tools and leave calls out,
and for those who name a form.
"""

from dataclasses import replace

from langchain_saffron.tools.base import ToolFormat
from langchain_saffron.tools.call_form import CallForm, Parameters, Slot
from langchain_saffron.tools.form_calls import FormCalls
from langchain_saffron.tools.json_calls import HERMES, LLAMA
from langchain_saffron.tools.values import Values

_NAME, _ARGUMENTS, _INDEX = Slot.NAME, Slot.ARGUMENTS, Slot.INDEX
_PYTHON = Parameters("", "=", "", ", ", Values("python", "python", "python", "python", "python"))
_JSON_CALL = (_NAME, '", "arguments": ', _ARGUMENTS)

_HERMES = CallForm('<tool_call>\n{"name": "', _JSON_CALL, "}\n</tool_call>", '}\n</tool_call>\n<tool_call>\n{"name": "')
_LLAMA = CallForm('{"name": "', (_NAME, '", "parameters": ', _ARGUMENTS), "}")

KNOWN: tuple[FormCalls, ...] = (
    FormCalls(
        "pythonic",
        CallForm("[", (_NAME, "(", _ARGUMENTS), ")]", "), ", _PYTHON),
    ),
    FormCalls(
        "lfm2",
        CallForm("<|tool_call_start|>[", (_NAME, "(", _ARGUMENTS), ")]<|tool_call_end|>", "), ", _PYTHON),
        marker="List of tools: ",
    ),
    FormCalls(
        "command_r",
        CallForm(
            'Action:\n```json\n[\n    {\n        "tool_name": "',
            (_NAME, '",\n        "parameters": ', _ARGUMENTS),
            "\n    }\n]```",
            '\n    },\n    {\n        "tool_name": "',
            # its arguments are indented, too
            faithful=False,
        ),
        marker='"tool_name": title of the tool in the specification',
    ),
    FormCalls(
        "granite",
        CallForm('<|tool_call|>[{"name": "', _JSON_CALL, "}]", '}, {"name": "'),
        marker="<|tool_call|>",
    ),
    FormCalls(
        "glm",
        CallForm(
            "<tool_call>",
            (_NAME, "\n", _ARGUMENTS),
            "</tool_call>",
            "</tool_call>\n<tool_call>",
            Parameters("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
        ),
        marker="<arg_key>",
    ),
    FormCalls(
        "kimi_k2",
        CallForm(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
            (_NAME, ":", _INDEX, "<|tool_call_argument_begin|>", _ARGUMENTS),
            "<|tool_call_end|><|tool_calls_section_end|>",
            "<|tool_call_end|><|tool_call_begin|>functions.",
        ),
        marker="<|tool_calls_section_begin|>",
    ),
)

# what the name of a form that a template told is taken from
_MARKERS = {
    "[TOOL_CALLS]": "mistral",
    "<｜tool▁calls▁begin｜>": "deepseek",
    "<｜DSML｜": "deepseek_v3.2",
    "<|tool_calls_section_begin|>": "kimi_k2",
    "<minimax:tool_call>": "minimax_m2",
    "<tool_calls>\n": "minimax_m1",
    "<|START_ACTION|>": "command_r7b",
    "<|tool_call>": "gemma4",
    "<start_function_call>": "functiongemma",
    "<|tool_call_start|>": "lfm2",
    " to=functions.": "harmony",
    "<seed:tool_call>": "seed_oss",
}


def as_models_write(form: CallForm) -> CallForm:
    """A form that a template told, with what its models write otherwise than the template."""
    if form.opening != " to=functions." or form.call != (_NAME, "<|channel|>commentary json<|message|>", _ARGUMENTS):
        return form
    # Harmony: the channel comes first, and the kind of the arguments may be marked, or left out
    kinds = (" <|constrain|>json<|message|>", " json<|message|>", "<|constrain|>json<|message|>", "<|message|>")
    behind = ("<|channel|>commentary <|constrain|>json<|message|>", *kinds)
    return replace(form, before="<|channel|>commentary", behind_name=behind)


def own_format(form: CallForm) -> ToolFormat | None:
    """The format that has its own code for a form, if there is one."""
    # whole thoughts before a call are the model's, and no part of the form
    plain = replace(form, lead="") if "<think>" in form.lead else form
    return {_HERMES: HERMES, _LLAMA: LLAMA}.get(plain)


def known_name(form: CallForm) -> str:
    """What a form is called."""
    if isinstance(form.arguments, Parameters):
        if "<function=" in form.opening:
            return "qwen3_coder"
        if form.arguments.opening.startswith("<arg_key"):
            return "glm"
        if form.bare:
            return "pythonic"
    return next((name for marker, name in _MARKERS.items() if form.opening.startswith(marker)), "template")
