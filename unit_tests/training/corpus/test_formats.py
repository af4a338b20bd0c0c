"""The shapes of records, known, broken and of the user's own."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_saffron.training.corpus import ShapeError, conversations_of, formats, register_record_form
from unit_tests.training.corpus.values import JSON

# --- shapes ---


def said(*texts, system=None):
    """Messages of user and assistant in turn."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
HH = "\n\nHuman: hi\n\nAssistant: yo"


@pytest.mark.parametrize("name", ["messages", "conversation", "conversations", "chat"])
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (HI, said("hi", "yo")),
        ([{"role": "developer", "content": "s"}, *HI], said("hi", "yo", system="s")),
        ([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], said("hi", "yo")),
        ([{"from": "system", "value": "s"}, {"from": "user", "value": "hi"}, {"from": "bot", "value": "yo"}],
         said("hi", "yo", system="s")),
        ([{"from": "model", "value": " a\n"}], [{"role": "assistant", "content": " a\n"}]),
        ([{"role": "user", "from": None, "content": "hi", "value": None},
          {"role": None, "from": "chatbot", "value": "yo"}],
         said("hi", "yo")),
        ([{"role": "user", "content": [{"type": "text", "text": "h", "image": None}, {"type": "text", "text": "i"}]},
          {"role": "assistant", "content": "yo", "tool_calls": []}], said("hi", "yo")),
        ([*HI, {"role": "user", "content": ""}], said("hi", "yo", "")),
    ],
)  # fmt: skip
def test_messages(name, messages, expected):
    assert conversations_of({"id": 3, name: messages, "prompt": "p", "response": "r"}) == [expected]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"chosen": HH, "rejected": "\n\nHuman: hi\n\nAssistant: no"}, [said("hi", "yo"), said("hi", "no")]),
        ({"chosen": HH, "rejected": HH}, [said("hi", "yo")]),
        ({"rejected": HH}, [said("hi", "yo")]),
        ({"chosen": HH, "rejected": None}, [said("hi", "yo")]),
        ({"chosen": "Human: hi\n\nAssistant:yo "}, [said("hi", "yo")]),
        ({"chosen": "\n\nAssistant: a\n\nHuman: b: \n\nc\n\n"},
         [[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b: \n\nc"}]]),
        ({"chosen": "\n\nHuman: hi\n\nAssistant:\n\nAssistant: yo\n\nHuman: \n\nAssistant:"},
         [[*said("hi", "yo"), {"role": "assistant", "content": ""}]]),
        ({"chosen": HI, "rejected": [*HI[:1], {"role": "assistant", "content": "no"}]},
         [said("hi", "yo"), said("hi", "no")]),
        ({"prompt": "hi", "chosen": HI, "rejected": HH}, [said("hi", "yo")]),
        ({"prompt": "hi", "chosen": "yo", "rejected": " no"}, [said("hi", "yo"), said("hi", " no")]),
        ({"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " yo"}, [said("hi", "yo")]),
        ({"prompt": HI[:1], "chosen": HI[1:], "rejected": "no"}, [said("hi", "yo"), said("hi", "no")]),
        ({"prompt": "hi", "chosen": HI[1:]}, [said("hi", "yo")]),
        ({"prompt": 3, "chosen": HH}, [said("hi", "yo")]),
        ({"system": "s", "question": "hi", "chosen": "yo"}, [said("hi", "yo", system="s")]),
        ({"chosen": True, "prompt": "hi", "response": "yo"}, [said("hi", "yo")]),
    ],
)  # fmt: skip
def test_chosen_and_rejected(data, expected):
    assert conversations_of(data) == expected


@pytest.mark.parametrize("prompt", ["prompt", "question", "instruction", "query", "user"])
@pytest.mark.parametrize("response", ["response", "answer", "output", "completion", "assistant"])
def test_prompt_and_response_by_any_name(prompt, response):
    assert conversations_of({response: "yo", prompt: "hi", "score": 1, "chat": "17"}) == [said("hi", "yo")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"prompt": "hi", "response": "yo", "system": "s"}, said("hi", "yo", system="s")),
        ({"prompt": "hi", "response": "yo", "system_prompt": "s"}, said("hi", "yo", system="s")),
        ({"prompt": "hi", "response": "yo", "system": " "}, said("hi", "yo")),
        ({"prompt": "hi", "response": "yo", "system": None, "messages": None, "chosen": None}, said("hi", "yo")),
        ({"instruction": "sum", "input": "1 2", "output": "3"}, said("sum\n\n1 2", "3")),
        ({"instruction": "", "input": "1 2", "output": "3"}, said("1 2", "3")),
        ({"instruction": "sum", "context": "1 2", "response": "3", "category": "qa"}, said("sum\n\n1 2", "3")),
        ({"instruction": "sum", "context": "", "response": "3", "category": "qa"}, said("sum", "3")),
        ({"prompt": said("hi", "yo")[:1], "completion": said("hi", "yo")[1:]}, said("hi", "yo")),
        ({"prompt": "hi", "completion": said("hi", "yo")[1:]}, said("hi", "yo")),
        ({"instruction": "sum", "input": "", "output": "3"}, said("sum", "3")),
        ({"instruction": "sum", "input": None, "output": "3"}, said("sum", "3")),
        ({"prompt": "sum", "input": "1 2", "output": "3"}, said("sum", "3")),
        ({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: hi\n\nAssistant:", "response": " yo"},
         said("a", "b", "hi", "yo")),
        ({"prompt": "\n\nHuman: hi", "response": "yo"}, said("hi", "yo")),
        ({"prompt": "\n\nHuman: hi", "system": "s", "response": "yo"}, said("hi", "yo", system="s")),
        ({"prompt": [{"role": "system", "content": "s"}, *HI[:1]], "system": "t", "response": "yo"},
         said("hi", "yo", system="s")),
        ({"prompt": "Human: hi", "response": HH}, said("Human: hi", HH)),
        ({"transcript": HH, "text": 3}, said("hi", "yo")),
        ({"text": f" {HH}\n", "prompt": "hi"}, said("hi", "yo")),
    ],
)  # fmt: skip
def test_prompt_and_response_and_transcripts(data, expected):
    assert conversations_of(data) == [expected]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "not an object but a list"),
        ({}, "has no fields; known are messages, prompt and response, chosen and rejected"),
        ({"a": 1, "b": 2}, "has the fields a, b; known are messages"),
        ({"\ud800": 1}, "\\ud800"),
        ({str(i): i for i in range(99)}, "10, 11, …; known"),
        ({"Prompt": "a", "Response": "b"}, "has the fields Prompt, Response;"),
        ({"prompt": "a", "response": None}, "response is null"),
        ({"messages": None}, "messages is null"),
        ({"messages": {"role": []}}, "messages is an object"),
        ({"messages": [], "prompt": "a", "response": "b"}, "messages is empty"),
        ({"messages": ["x"]}, "messages[0] is a text, not a message"),
        ({"messages": [{"content": "x"}]}, "messages[0] has no role"),
        ({"messages": [{"role": "user"}]}, "messages[0] has no content"),
        ({"messages": [{"role": None, "content": "x"}]}, "messages[0].role is null"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role is a list"),
        ({"chat": [*HI, {"role": "critic", "content": "x"}]}, "chat[2] has the role critic; known are system, "),
        ({"chat": [{"from": "narrator", "value": "x"}]}, "chat[0] has the role narrator"),
        ({"messages": [HI[0], {"role": "assistant", "content": None}]}, "messages[1].content is null"),
        ({"messages": [{"from": "gpt", "value": 1.5}]}, "messages[0].value is a number"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0] is a part of the type image_url"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "content[0] is a part of the type a text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text is null"),
        ({"messages": HI[:1]}, "no assistant turn with any text in messages"),
        ({"messages": [HI[0], {"role": "assistant", "content": " \n"}]}, "no assistant turn with any text"),
        ({"chosen": HH, "rejected": "\n\nHuman: hi\n\nAssistant: "}, "no assistant turn with any text in rejected"),
        ({"chosen": HH, "rejected": 5}, "rejected is a number, not a text"),
        ({"chosen": "yo"}, "chosen is neither a transcript nor messages, and there is no prompt to it"),
        ({"chosen": "Preface\n\nHuman: hi"}, "chosen has text before its first turn"),
        ({"chosen": "yo", "prompt": 3}, "prompt is a number, not a text"),
        ({"prompt": {}, "response": "yo"}, "prompt is an object, not a text"),
        ({"prompt": "hi", "response": ["yo"]}, "response[0] is a text, not a message"),
        ({"prompt": "hi", "response": b"yo"}, "response is bytes, not a text"),
        ({"prompt": "hi", "response": " "}, "no assistant turn with any text in response"),
        ({"prompt": "hi", "response": "yo", "system": 1}, "system is a number, not a text"),
        ({"instruction": "hi", "output": "yo", "input": False}, "input is a boolean, not a text"),
        ({"text": "plain"}, 'text has no turn that starts with "\\n\\nHuman:"'),
        ({"text": 5}, "has the fields text, text is a number; known"),
    ],
)  # fmt: skip
def test_what_has_no_known_shape_says_what_it_has(data, message):
    with pytest.raises(ShapeError) as error:
        conversations_of(data)
    assert message in str(error.value)
    assert str(error.value).isprintable()


NAMES = st.sampled_from(
    [
        *("messages", "conversation", "chat", "chosen", "rejected", "prompt", "instruction", "input", "user"),
        *("response", "output", "system", "transcript", "text", "role", "from", "content", "value", "type"),
    ]
)
WORDS = st.sampled_from(
    ["user", "gpt", "system", "tool", "text", HH, "\n\nHuman:", "\n\nAssistant:", "", " ", "\ud800"]
)
SHAPED = st.recursive(
    st.none() | st.booleans() | st.floats() | WORDS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=5),
    max_leaves=20,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": WORDS, "content": WORDS | SHAPED}), max_size=4)


@pytest.mark.slow
@settings(deadline=None, max_examples=250)
@given(JSON | SHAPED | st.dictionaries(NAMES, WORDS | SHAPED | MESSAGES, max_size=6))
def test_any_value_is_conversations_or_a_shape_error(value):
    try:
        conversations = conversations_of(value)
    except ShapeError as error:
        conversations, message = [], str(error)
    else:
        message = "none"
        assert 1 <= len(conversations) <= 2
    assert 0 < len(message) < 2000
    for turns in conversations:
        assert all(set(turn) == {"role", "content"} for turn in turns)
        assert all(turn["role"] in ("system", "user", "assistant") for turn in turns)
        assert all(isinstance(turn["content"], str) for turn in turns)
        assert any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns)


# --- tools ---


CALL = {"name": "set_timer", "arguments": {"minutes": 5, "dish": "Süppchen"}}
LINE = '{"name": "set_timer", "arguments": {"minutes": 5, "dish": "Süppchen"}}'


@pytest.mark.parametrize(
    "calls",
    [
        [{"type": "function", "id": "x", "function": CALL}],
        [{"type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}],
        [CALL],
        [{"name": "set_timer", "args": CALL["arguments"], "id": "x", "type": "tool_call"}],
    ],
    ids=["template", "openai", "bare", "langchain"],
)
def test_tool_calls_are_read_in_every_form(calls):
    record = {"messages": [HI[0], {"role": "assistant", "content": None, "tool_calls": calls}]}
    assert conversations_of(record) == [[HI[0], {"role": "assistant", "content": "", "tool_calls": LINE}]]


def test_what_a_tool_returns_is_input_like_a_users_words():
    turns = [
        HI[0],
        {"role": "assistant", "tool_calls": [CALL, {"name": "stop"}]},
        {"role": "tool", "content": "done", "tool_call_id": "x"},
        HI[1],
    ]
    (messages,) = conversations_of({"messages": turns})
    assert [turn["role"] for turn in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[1]["tool_calls"].splitlines() == [LINE, '{"name": "stop", "arguments": {}}']
    assert messages[2] == {"role": "user", "content": "done"}


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        ({"name": "f"}, "messages[1].tool_calls is an object, not a list"),
        (["f"], "messages[1].tool_calls[0] names no function"),
        ([CALL, {"function": {}}], "messages[1].tool_calls[1] names no function"),
        ([{"name": "f", "arguments": "{"}], "messages[1].tool_calls[0].arguments are not JSON"),
        ([{"name": "f", "arguments": "[1]"}], "messages[1].tool_calls[0].arguments are a list, not an object"),
    ],
)
def test_broken_tool_calls_are_named(calls, problem):
    with pytest.raises(ShapeError) as caught:
        conversations_of({"messages": [HI[0], {"role": "assistant", "content": "", "tool_calls": calls}]})
    assert problem in str(caught.value)


def test_an_assistant_that_neither_speaks_nor_calls_answers_nothing():
    with pytest.raises(ShapeError, match="no assistant turn with any text"):
        conversations_of({"messages": [HI[0], {"role": "assistant", "content": "", "tool_calls": []}]})


# --- forms of the user's own ---


def test_a_form_of_the_user_s_own_is_asked_first(monkeypatch):
    monkeypatch.setattr(formats, "_FORMS", dict(formats._FORMS))

    def read(fields):
        if "q" not in fields:
            return None
        if "a" not in fields:
            raise ShapeError("a question without an answer")
        return {"a": [{"role": "user", "content": fields["q"]}, {"role": "assistant", "content": fields["a"]}]}

    register_record_form("q and a", read)
    known = {"prompt": "p", "response": "r"}
    assert [turn["content"] for turn in conversations_of({**known, "q": "Leek?", "a": "Yes."})[0]] == ["Leek?", "Yes."]
    assert [turn["content"] for turn in conversations_of(known)[0]] == ["p", "r"]
    with pytest.raises(ShapeError, match="without an answer"):
        conversations_of({"q": "Leek?"})
    with pytest.raises(ShapeError, match="known are q and a, messages"):
        conversations_of({"x": "y"})
