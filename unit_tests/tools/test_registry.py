"""Forms of tool calls by name, by chat template, and of the user's own."""

import json

import pytest

from langchain_saffron.errors import SettingsError
from langchain_saffron.tools import (
    HERMES,
    LLAMA,
    RESPONSE_TEMPLATE,
    detect_tool_format,
    get_tool_format,
    register_tool_format,
    registry,
    tool_format_names,
)
from langchain_saffron.tools.json_calls import HermesFormat
from unit_tests.tool_templates import LLAMA31, QWEN25


def test_forms_by_name():
    assert get_tool_format("hermes") is HERMES
    assert get_tool_format("llama") is LLAMA
    assert get_tool_format("response_template") is RESPONSE_TEMPLATE
    with pytest.raises(SettingsError, match=r"'xml' is not one of 'hermes', 'llama', .*'response_template'"):
        get_tool_format("xml")


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (json.dumps([{"name": "tool_use", "template": QWEN25}]), HERMES),
        (json.dumps({"default": "", "tool_use": LLAMA31}), LLAMA),
        ("{% if tools %}<tool_call>{'name': 1, \"arguments\": 2}", HERMES),
        (r'{{ "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}" }}', HERMES),
        ('<tool_call>\n<function=name>\n<parameter=arguments> "arguments"', None),
        ('<tool_call>{name}\n<arg_key> "arguments"', get_tool_format("glm")),
        ('<tool_calls><tool_call>name<tool_sep> "arguments"', None),
        ("<tool_call>' + name + '```json", None),
        (
            'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.',
            LLAMA,
        ),
        ('[{"tool_name": title of the tool, "parameters": a dict of parameters}]', None),
        ('{{ \'{"name": "\' + tool.name + \'", "parameters": \' }}', None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
    ],
)
def test_forms_by_template(source, form):
    assert detect_tool_format(source, None) is form


def test_your_own_form(monkeypatch):
    class Shouted(HermesFormat):
        name = "shouted"
        opening, closing = "<CALL>", "</CALL>"

        def detect(self, source, tokenizer):
            return "<CALL>" in source

    monkeypatch.setattr(registry, "_formats", dict(registry._formats))
    form = Shouted()
    register_tool_format(form)
    assert get_tool_format("shouted") is form
    assert tool_format_names()[0] == "shouted"
    assert detect_tool_format('<CALL> or <tool_call> "arguments"', None) is form
    assert detect_tool_format('<tool_call> "arguments"', None) is HERMES
    answer = form.parse('Well.\n<CALL>\n{"name": "f", "arguments": {}}\n</CALL>')
    assert answer.content == "Well."
    assert [(call.name, call.args, call.error) for call in answer.calls] == [("f", "{}", None)]
