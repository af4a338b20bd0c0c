"""Calls whose markers are control tokens, which texts leave out, are streamed like any others."""

import pytest
from langchain_core.messages import AIMessageChunk

from unit_tests.builders import byte_level_tokenizer
from unit_tests.call_templates import FAMILIES, MARKERS
from unit_tests.scripted import scripted_chat
from unit_tests.thought_templates import HARMONY as THOUGHTS
from unit_tests.thought_templates import thinking_tokenizer
from unit_tests.tools.test_forms import TOOLS, written

MARKED = ["mistral", "mistral_args", "deepseek", "kimi", "harmony", "typed", "pythonic", "own"]
# short: the model's memory is small
CALL = [("weather", {"place": "Nice"})]
HARMONY = "{% if tools %}{{ tools | tojson }}{% endif %}" + THOUGHTS.replace(
    "{% if m.role == 'assistant' %}",
    "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}{{ '<|start|>assistant to=functions.' + f.name"
    " + '<|channel|>commentary json<|message|>' + (f.arguments | tojson) + '<|call|>' }}"
    "{% elif m.role == 'assistant' %}",
    1,
)


def streamed(chat):
    chunks = list(chat.stream("Hi"))
    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    return chunks, whole


@pytest.mark.parametrize("family", MARKED)
def test_names_come_first_and_arguments_as_they_are_written(family):
    tokenizer = byte_level_tokenizer(chat_template=FAMILIES[family], extra_tokens=MARKERS)
    call = written(FAMILIES[family], CALL)
    chat = scripted_chat(tokenizer, f"So.\n{call}", tools=TOOLS).bind_tools(TOOLS)
    chunks, whole = streamed(chat)
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == CALL
    assert whole.text == "So."
    pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
    assert pieces[0]["name"] == "weather"
    assert len([piece for piece in pieces if piece["args"]])
    first = next(place for place, chunk in enumerate(chunks) if chunk.tool_call_chunks)
    assert "".join(chunk.text for chunk in chunks[:first]) == "So."
    message = chat.invoke("Hi")
    assert [(one["name"], one["args"]) for one in message.tool_calls] == CALL
    assert (message.text, message.invalid_tool_calls) == ("So.", [])


@pytest.mark.parametrize("effort", ["off", "medium"])
@pytest.mark.parametrize("family", ["mistral", "deepseek", "typed", "marked", "own"])
def test_an_only_call_that_does_not_fit_is_cut_and_not_left_out(family, effort):
    # "typed" and "marked" begin their calls with plain text, which could be an answer
    tokenizer = byte_level_tokenizer(chat_template=FAMILIES[family], extra_tokens=MARKERS)
    call = written(FAMILIES[family], CALL)
    half = len(tokenizer.encode(call, add_special_tokens=False)) // 2
    seen = range(len(tokenizer)) if effort == "medium" else None
    chat = scripted_chat(tokenizer, call, tools=TOOLS, effort=effort, seen=seen).bind_tools(TOOLS)
    assert [(one["name"], one["args"]) for one in chat.invoke("Hi").tool_calls] == CALL
    message = chat.invoke("Hi", max_tokens=half)
    assert message.response_metadata["finish_reason"] == "length"
    assert message.usage_metadata["output_tokens"] == half
    assert (message.text, message.tool_calls, len(message.invalid_tool_calls)) == ("", [], 1)


@pytest.mark.parametrize("family", MARKED)
def test_a_cut_call_is_an_invalid_one(family):
    tokenizer = byte_level_tokenizer(chat_template=FAMILIES[family], extra_tokens=MARKERS)
    size = len(tokenizer.encode(written(FAMILIES[family], CALL), add_special_tokens=False))
    # the grammar would see to a whole call: here a stop string cuts it
    chat = scripted_chat(tokenizer, written(FAMILIES[family], CALL), tools=TOOLS, stop=["ice"], max_tokens=size + 9)
    chat = chat.bind_tools(TOOLS)
    _, whole = streamed(chat)
    for message in (whole, chat.invoke("Hi")):
        (call,) = message.invalid_tool_calls
        assert call["name"] == "weather"
        assert not message.tool_calls
        assert message.text == ""


def test_markers_that_mark_thoughts_too():
    said = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    call = ' to=functions.weather<|channel|>commentary json<|message|>{"place": "Nice"}'
    chat = scripted_chat(thinking_tokenizer(HARMONY), f"{said}{call}", tools=TOOLS).bind_tools(TOOLS)
    chunks, whole = streamed(chat)
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == CALL
    assert whole.text == ""
    assert len([chunk for chunk in chunks if chunk.tool_call_chunks]) > 2


def test_calls_in_a_row():
    tokenizer = byte_level_tokenizer(chat_template=FAMILIES["deepseek"], extra_tokens=MARKERS)
    calls = [("weather_now", {}), ("weather", {"place": "B"})]
    chat = scripted_chat(tokenizer, written(FAMILIES["deepseek"], calls), tools=TOOLS)
    chunks, whole = streamed(chat.bind_tools(TOOLS))
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == calls
    assert {piece["index"] for chunk in chunks for piece in chunk.tool_call_chunks} == {0, 1}
