import json

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from tokenizers import AddedToken
from transformers import AutoTokenizer

from langchain_saffron.errors import SettingsError
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.tools import RESPONSE_TEMPLATE, Answer, Said, tool_request
from langchain_saffron.tools.base import ENDED
from unit_tests.builders import CHATML, byte_level_tokenizer

# Calls between control tokens, with bare keys and strings between tokens of their own, thoughts in a channel.
CHANNELS = {
    "defaults": {"role": "assistant"},
    "start_anchor": ["<|im_start|>assistant\n", "<tool_response|>"],
    "fields": {
        "thinking": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<|im_end|>", "<|endoftext|>"], "content": "text"},
    },
}
# Calls in XML between ordinary markers, whose values only the schema gives a type.
XML = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
    },
}
# A list of calls as Python writes them.
LISTED = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<|tool_call_start|>",
            "close": "<|tool_call_end|>",
            "content": "python-call-list",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
            "transform_each": True,
        },
        "content": {"close": "<|im_end|>"},
    },
}
TEMPLATES = {"channels": CHANNELS, "xml": XML, "listed": LISTED}
CONTROLS = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>')
CHAT = (
    "{% for tool in tools or [] %}{{ '<|tool>' + (tool | tojson) }}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS = tool_request(
    [
        {
            "name": "weather",
            "description": "The weather.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["place"],
            },
        },
        {"name": "now", "description": "The time."},
    ]
).tools


def tokenizer_with(template, tmp_path):
    """A tokenizer with a response template, as it comes out of a model's directory."""
    controls = [AddedToken(control, special=True, normalized=False) for control in CONTROLS]
    tokenizer = byte_level_tokenizer(chat_template=CHAT, extra_tokens=("<|tool>",))
    tokenizer.add_tokens(controls, special_tokens=True)
    tokenizer.response_template = template
    tokenizer.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.fixture
def read(tmp_path):
    """What an answer comes to, read as a chat model does it."""

    def read(kind, written, cut=None, text=None, prompt="<|im_start|>assistant\n", tools=TOOLS):
        tokenizer = tokenizer_with(TEMPLATES[kind], tmp_path)
        ids = tokenizer.encode(written, add_special_tokens=False)
        parser = RESPONSE_TEMPLATE.parser(tokenizer, tools, tokenizer.encode(prompt, add_special_tokens=False))
        shown = tokenizer.decode(ids, skip_special_tokens=True) if text is None else text
        assert not [event for character in shown for event in parser.feed(character)]
        return Answer.of(parser.finish(cut, tokenizer.decode(ids)))

    return read


def calls(answer):
    return [(call.name, json.loads(call.args)) for call in answer.calls if call.error is None]


def test_the_tokenizer_tells_its_form(tmp_path):
    renderer = PromptRenderer(tokenizer_with(XML, tmp_path))
    assert renderer.tool_format is RESPONSE_TEMPLATE
    without = {**XML, "fields": {"content": XML["fields"]["content"]}}
    assert not RESPONSE_TEMPLATE.detect(CHAT, tokenizer_with(without, tmp_path))
    plain = byte_level_tokenizer(chat_template=CHATML)
    assert not RESPONSE_TEMPLATE.detect(CHATML, plain)
    with pytest.raises(SettingsError, match="no response_template with tool_calls"):
        RESPONSE_TEMPLATE.parser(plain)


@pytest.mark.parametrize("choice", ["any", "weather"])
def test_calls_cannot_be_enforced(choice):
    assert RESPONSE_TEMPLATE.grammar(TOOLS, "auto", True) is None
    assert RESPONSE_TEMPLATE.grammar(TOOLS, "none", True) is None
    with pytest.raises(SettingsError, match=rf'{choice!r} cannot be enforced.*tool_format="hermes"'):
        RESPONSE_TEMPLATE.grammar(TOOLS, choice, True)


def test_channels(read):
    written = (
        "<|channel>thought\nHm. <|tool_call> is a marker.<channel|>Let me see.\n"
        '<|tool_call>call:weather{place:<|"|>Köln "}{" <|"|>,days:2}<tool_call|><|tool_call>call:now{}<tool_call|>'
        " Done. <|im_end|>"
    )
    answer = read("channels", written)
    assert answer.content == "Let me see.\nDone."
    assert calls(answer) == [("weather", {"place": 'Köln "}{" ', "days": 2}), ("now", {})]


def test_xml(read):
    written = (
        "<think>\nHm.\n</think>\n\nWell.\n\n<tool_call>\n<function=weather>\n<parameter=place>\n3\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n"
        "</tool_call><|im_end|>"
    )
    answer = read("xml", written)
    assert answer.content == "Well."
    assert calls(answer) == [("weather", {"place": "3", "days": 2}), ("now", {})]


def test_listed(read):
    start, end = "<|tool_call_start|>", "<|tool_call_end|>"
    listed = '[weather(place="Köln", days=2), now()]'
    wanted = [("weather", {"place": "Köln", "days": 2}), ("now", {})]
    assert calls(read("listed", f"{start}{listed}{end}<|im_end|>")) == wanted
    assert calls(read("listed", f"{start}{listed}", "cut")) == wanted
    half = read("listed", f'Well. {start}[weather(place="Kö', "cut")
    assert half.content == "Well."
    assert [(call.name, call.error) for call in half.calls] == [(None, "cut")]
    assert start in half.calls[0].args


@pytest.mark.parametrize("kind", TEMPLATES)
def test_text_alone(kind, read):
    assert read(kind, "Hello <b>you</b>!<|im_end|>") == Answer("Hello <b>you</b>!")
    assert read(kind, "") == Answer()


def test_thoughts_that_the_prompt_began(read):
    answer = read("xml", "Hm.\n</think>\n\nWell.<|im_end|>", prompt="<|im_start|>assistant\n<think>\n")
    assert answer == Answer("Well.")


def test_an_answer_that_goes_on_with_a_prefill(read):
    answer = read("channels", " world. <|im_end|>", prompt="<|im_start|>assistant\nHello")
    assert answer == Answer(" world.")


@pytest.mark.parametrize(
    ("written", "name", "error"),
    [
        ("<|tool_call>call:nobody{}<tool_call|>", "nobody", "no tool is named 'nobody'; there are 'weather'"),
        ("<|tool_call>call:weather{}<tool_call|>", "weather", "'place' is missing"),
        ("<|tool_call>call:weather{place:3}<tool_call|>", "weather", "arguments.place: not of type string"),
        ('<|tool_call>call:weather{place:<|"|>x<|"|>,a:1}<tool_call|>', "weather", "'a' is unknown"),
        ("<|tool_call>call:weather[1]<tool_call|>", "weather", "not a JSON object"),
        ("<|tool_call>call:weather{place}<tool_call|>", None, "cannot be read"),
        ('<|tool_call>call:weather{place:<|"|>x', None, "cannot be read"),
    ],
)  # fmt: skip
def test_every_call_is_checked(read, written, name, error):
    answer = read("channels", f"Well. <|tool_call>call:now{{}}<tool_call|>{written}<|im_end|>")
    assert answer.content == "Well."
    good, bad = answer.calls
    assert (good.name, good.error) == ("now", None)
    assert bad.name == name
    assert error in bad.error
    assert bad.name or "weather" in bad.args
    chunk = tool_call_chunk(name=bad.name, args=bad.args, id=bad.id, index=1)
    assert not AIMessageChunk(content="", tool_call_chunks=[chunk]).tool_calls


def test_half_a_call_is_none(read):
    written = "<tool_call>\n<function=weather>\n<parameter=place>\nx\n</parameter>\n"
    for cut, error in ((None, ENDED), ("cut", "cut")):
        (call,) = read("xml", f"Well.{written}", cut).calls
        assert (call.name, call.error) == ("weather", error)
    whole = f"{written}</function>\n</tool_call>"
    assert calls(read("xml", whole, "cut")) == [("weather", {"place": "x"})]
    # JSON is whole without its end marker, too
    assert calls(read("channels", "<|tool_call>call:now{}", "cut")) == [("now", {})]


def test_a_stop_string_ends_the_text_for_the_tokens_as_well(read):
    written = "<|channel>thought\nHm.<channel|>One. STOP <|tool_call>call:now{}<tool_call|><|im_end|>"
    answer = read("channels", written, text="thought\nHm.One. ")
    assert answer == Answer("One.")


def test_text_without_control_tokens_is_read_as_it_is(tmp_path):
    parser = RESPONSE_TEMPLATE.parser(tokenizer_with(CHANNELS, tmp_path), TOOLS)
    assert not list(parser.feed("Hello"))
    assert list(parser.finish("cut")) == [Said("Hello")]


def test_a_field_that_is_missing_is_no_error(read, monkeypatch):
    strict = {**XML, "fields": {**XML["fields"]}}
    strict["fields"]["content"] = {**strict["fields"]["content"], "optional": False}
    monkeypatch.setitem(TEMPLATES, "strict", strict)
    assert calls(read("strict", "<tool_call><function=now></function></tool_call><|im_end|>")) == [("now", {})]
