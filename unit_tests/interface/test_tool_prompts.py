import json
import random

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.messages.utils import convert_to_messages
from transformers import AutoTokenizer

from langchain_saffron.embedded import KITCHEN
from langchain_saffron.errors import PromptError
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.kitchen.generator import conversations as kitchen_conversations
from langchain_saffron.kitchen.recipe.prm import TEMPLATE, encode_reward
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.templates.tool_call_text import call_text
from langchain_saffron.tools import HERMES, LLAMA, RESPONSE_TEMPLATE
from langchain_saffron.training.corpus.formats import conversations_of
from langchain_saffron.training.corpus.turns import turn_text
from unit_tests.builders import CHATML, DROPPING, GEMMA, LLAMA3, MISTRAL, byte_level_tokenizer, metaspace_tokenizer
from unit_tests.call_templates import UNKNOWN
from unit_tests.prompt_cases import ORDINARY, controls, hostile_text
from unit_tests.tool_templates import (
    ADDING,
    CONTROLS,
    FIRST_CALL,
    HERMES3,
    JOINING,
    LLAMA31,
    MISTRAL_TOOLS,
    QWEN3,
    QWEN25,
)

PUBLISHED = {"qwen2.5": QWEN25, "qwen3": QWEN3, "llama3.1": LLAMA31, "hermes3": HERMES3, "mistral": MISTRAL_TOOLS}
IGNORANT = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "dropping": DROPPING}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a place, as <b>text</b>.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where? \"Köln\", 'Paris' …"},
                "days": {"type": "integer", "default": 1, "enum": [1, 2, 3]},
                "a key": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["place"],
        },
    },
}
OTHER = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}
TOOLS = [TOOL, OTHER]


def tokenizer_for(template, **options):
    return byte_level_tokenizer(chat_template=template, extra_tokens=CONTROLS, **options)


def call(name="weather", identifier="abcdefghi", **args):
    return {"name": name, "args": args, "id": identifier, "type": "tool_call"}


def as_dicts(messages):
    """The messages as transformers documents them for chat templates, independent of the package."""
    made = []
    for message in messages:
        if isinstance(message, ToolMessage):
            made.append(
                {"role": "tool", "content": message.content, "tool_call_id": message.tool_call_id, "name": message.name}
            )
            continue
        role = {"human": "user", "ai": "assistant", "system": "system"}[message.type]
        made.append({"role": role, "content": message.content})
        if calls := getattr(message, "tool_calls", None):
            made[-1]["tool_calls"] = [
                {"type": "function", "id": one["id"], "function": {"name": one["name"], "arguments": one["args"]}}
                for one in calls
            ]
    return made


def apply(tokenizer, messages, tools=TOOLS):
    return tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, add_generation_prompt=True, return_dict=False
    )


def conversations(seed, count, parallel):
    generator = random.Random(seed)

    def said():
        return "".join(generator.choice(ORDINARY) for _ in range(generator.choice([1, 1, 2])))

    for number in range(count):
        messages = [SystemMessage(said())] if generator.random() < 0.5 else []
        for turn in range(generator.randrange(3)):
            messages.append(HumanMessage(said()))
            if generator.random() < 0.7:
                calls = [
                    call(
                        generator.choice(["weather", "now"]),
                        f"call{number:02}{turn}{index}a",
                        **generator.choice([{}, {"place": said()}, {"days": 2, "a key": [1.5, None, {"x": said()}]}]),
                    )
                    for index in range(generator.choice([1, 2, 3]) if parallel else 1)
                ]
                messages.append(AIMessage(said() if generator.random() < 0.3 else "", tool_calls=calls))
                messages += [ToolMessage(said(), tool_call_id=one["id"], name=one["name"]) for one in calls]
                if generator.random() < 0.2:
                    break
            messages.append(AIMessage(said()))
        if not isinstance(messages[-1] if messages else None, ToolMessage):
            messages.append(HumanMessage(said()))
        yield messages


@pytest.mark.parametrize("template", PUBLISHED)
@pytest.mark.parametrize("make", ["llama3", pytest.param("gpt2", marks=pytest.mark.slow), "unigram"])
def test_ordinary_text_gives_the_ids_of_apply_chat_template(template, make):
    if make == "unigram":
        tokenizer = metaspace_tokenizer("unigram", chat_template=PUBLISHED[template])
    else:
        tokenizer = tokenizer_for(PUBLISHED[template], **({"pattern": None} if make == "gpt2" else {}))
    renderer = PromptRenderer(tokenizer)
    several = template != "llama3.1"
    for messages in conversations(1, 25, parallel=several):
        if template == "mistral" and isinstance(messages[-1], ToolMessage):
            # here it leaves the system message out, which the renderer does not let happen
            messages = [message for message in messages if not isinstance(message, SystemMessage)]
        for tools in (TOOLS, [OTHER], None):
            assert list(renderer.render(messages, tools).policy_ids) == apply(tokenizer, as_dicts(messages), tools)


@pytest.mark.parametrize(
    ("template", "form"),
    [(QWEN25, HERMES), (QWEN3, HERMES), (HERMES3, HERMES), (LLAMA31, LLAMA)],
    ids=["qwen2.5", "qwen3", "hermes3", "llama3.1"],
)
def test_the_form_is_that_of_the_template(template, form):
    renderer = PromptRenderer(tokenizer_for(template))
    assert renderer.knows_tools
    assert renderer.tool_format is form


def test_a_form_that_is_not_known():
    template = UNKNOWN
    renderer = PromptRenderer(tokenizer_for(template))
    assert renderer.knows_tools
    with pytest.raises(PromptError, match=r"tool_format= .*'hermes'.*register_tool_format"):
        _ = renderer.tool_format
    assert PromptRenderer(tokenizer_for(template), tool_format=LLAMA).tool_format is LLAMA


@pytest.mark.parametrize("template", IGNORANT)
def test_a_template_that_knows_no_tools_does_not_drop_them(template):
    renderer = PromptRenderer(tokenizer_for(IGNORANT[template]))
    assert not renderer.knows_tools
    with pytest.raises(PromptError, match='knows no tools: tool_format="hermes"'):
        _ = renderer.tool_format
    with pytest.raises(PromptError, match=r'does not support tools.*tool_format="hermes"'):
        renderer.render([HumanMessage("Hi")], TOOLS)
    history = [HumanMessage("Hi"), AIMessage("", tool_calls=[call()]), ToolMessage("3", tool_call_id="abcdefghi")]
    with pytest.raises(PromptError):
        renderer.render(history)


def test_no_template_at_all():
    renderer = PromptRenderer(byte_level_tokenizer())
    assert not renderer.knows_tools
    with pytest.raises(PromptError, match="no chat template"):
        _ = renderer.tool_format
    with pytest.raises(PromptError, match="no chat template"):
        renderer.render([HumanMessage("Hi")], TOOLS)


def test_several_calls_where_the_template_takes_one_at_a_time():
    tokenizer = tokenizer_for(LLAMA31)
    one, two = call("weather", "a", place="Paris"), call("now", "b")
    rest = [AIMessage("Done."), HumanMessage("And?")]
    messages = [
        HumanMessage("?"),
        AIMessage("", tool_calls=[one, two]),
        ToolMessage("late", tool_call_id="b"),
        ToolMessage("sunny", tool_call_id="a"),
        *rest,
    ]
    apart = [
        HumanMessage("?"),
        AIMessage("", tool_calls=[one]),
        ToolMessage("sunny", tool_call_id="a"),
        AIMessage("", tool_calls=[two]),
        ToolMessage("late", tool_call_id="b"),
        *rest,
    ]
    assert list(PromptRenderer(tokenizer).render(messages, TOOLS).policy_ids) == apply(tokenizer, as_dicts(apart))


def test_calls_that_a_template_would_leave_out():
    tokenizer = tokenizer_for(FIRST_CALL)
    messages = [
        HumanMessage("?"),
        AIMessage("", tool_calls=[call("weather", "a"), call("now", "b")]),
        ToolMessage("x", tool_call_id="a"),
        ToolMessage("y", tool_call_id="b"),
    ]
    decoded = tokenizer.decode(PromptRenderer(tokenizer).render(messages, TOOLS).policy_ids)
    assert decoded.index("weather\n{}") < decoded.index("tool\nx") < decoded.index("now\n{}") < decoded.index("tool\ny")


@pytest.mark.parametrize("template", [ADDING, JOINING], ids=["adding", "joining"])
@pytest.mark.parametrize("args", [{"place": 'Köln "Süd"'}, {"days": 2}, {}])
def test_arguments_are_text_where_the_template_wants_text(template, args):
    tokenizer = tokenizer_for(template)
    messages = [HumanMessage("?"), AIMessage("", tool_calls=[call(**args)]), ToolMessage("3", tool_call_id="abcdefghi")]
    rendered = PromptRenderer(tokenizer).render(messages, TOOLS)
    assert f"weather\n{json.dumps(args, ensure_ascii=False)}</tool_call>" in tokenizer.decode(rendered.policy_ids)
    assert controls(tokenizer, rendered.policy_ids)


def test_ids_are_as_short_as_mistral_wants_them():
    tokenizer = tokenizer_for(MISTRAL_TOOLS)
    long = "call_0123456789abcdef01234567"
    messages = [
        HumanMessage("?"),
        AIMessage("", tool_calls=[call(identifier=long)]),
        ToolMessage("3", tool_call_id=long),
    ]
    decoded = tokenizer.decode(PromptRenderer(tokenizer).render(messages, TOOLS).policy_ids)
    (short,) = {part[:9] for part in decoded.split('id": "')[1:]}
    assert short.isalnum()
    assert f'"id": "{short}"' in decoded
    assert f'"call_id": "{short}"' in decoded
    kept = [HumanMessage("?"), AIMessage("", tool_calls=[call()]), ToolMessage("3", tool_call_id="abcdefghi")]
    assert list(PromptRenderer(tokenizer).render(kept, TOOLS).policy_ids) == apply(tokenizer, as_dicts(kept))


def test_what_tools_return():
    tokenizer = tokenizer_for(QWEN25)
    renderer = PromptRenderer(tokenizer, reward_template=RewardTemplate.published())
    asked = [HumanMessage("?"), AIMessage("", tool_calls=[call()])]
    plain = renderer.render([*asked, ToolMessage("one two", tool_call_id="abcdefghi")])
    for result in (
        ToolMessage(["one ", {"type": "text", "text": "two"}], tool_call_id="abcdefghi"),
        ToolMessage("one two", tool_call_id="abcdefghi", status="error", artifact=object()),
    ):
        assert renderer.render([*asked, result]) == plain
    with pytest.raises(PromptError, match="'image_url' in a tool message"):
        renderer.render([*asked, ToolMessage([{"type": "image_url", "image_url": "x"}], tool_call_id="abcdefghi")])


def test_the_name_of_the_tool_that_answers():
    named = QWEN25.replace("{{- message.content }}", "{{- message.name + ': ' + message.content }}")
    tokenizer = tokenizer_for(named)
    messages = [HumanMessage("?"), AIMessage("", tool_calls=[call()]), ToolMessage("3", tool_call_id="abcdefghi")]
    assert "\nweather: 3\n" in tokenizer.decode(PromptRenderer(tokenizer).render(messages).policy_ids)


def test_calls_that_could_not_be_read_stay_in_the_history():
    tokenizer = tokenizer_for(QWEN3)
    renderer = PromptRenderer(tokenizer, reward_template=RewardTemplate.published())
    spoiled = [
        invalid_tool_call(name="weather", args='{"place": "Pa', id="1", error="?"),
        invalid_tool_call(name=None, args="{{<tool_call>", id="2", error="?"),
    ]
    messages = [
        HumanMessage("?"),
        AIMessage([{"type": "text", "text": "Hm."}, {"type": "invalid_tool_call"}], invalid_tool_calls=spoiled),
        HumanMessage("Again."),
    ]
    rendered = renderer.render(messages)
    written = (
        'assistant\nHm.\n{{<tool_call>\n<tool_call>\n{"name": "weather", "arguments": {"place": "Pa}\n</tool_call>'
    )
    assert written in tokenizer.decode(rendered.policy_ids)
    marker = tokenizer.convert_tokens_to_ids("<tool_call>")
    assert rendered.policy_ids.count(marker) == 1
    assert marker not in rendered.reward_ids
    assert '{"name": "weather", "arguments": {"place": "Pa}' in tokenizer.decode(rendered.reward_ids)


def test_thoughts_are_no_part_of_the_history():
    renderer = PromptRenderer(tokenizer_for(QWEN25))
    thoughtful = AIMessage([{"type": "reasoning", "reasoning": "Hm"}, {"type": "text", "text": "Hi."}])
    messages = [HumanMessage("?"), thoughtful, HumanMessage("!")]
    assert renderer.render(messages) == renderer.render([HumanMessage("?"), AIMessage("Hi."), HumanMessage("!")])


@pytest.mark.parametrize("spoiled", [False, True])
def test_calls_at_the_end_have_no_results_yet(spoiled):
    broken = invalid_tool_call(name="weather", args="{", id="1", error="?")
    last = AIMessage("", invalid_tool_calls=[broken]) if spoiled else AIMessage("", tool_calls=[call()])
    with pytest.raises(PromptError, match="add their results as tool messages"):
        PromptRenderer(tokenizer_for(QWEN25)).render([HumanMessage("?"), last], TOOLS)


def test_prefill_with_tools():
    tokenizer = tokenizer_for(QWEN3)
    rendered = PromptRenderer(tokenizer).render([HumanMessage("?"), AIMessage("Let me <tool_call> see")], TOOLS)
    assert tokenizer.decode(rendered.prefill_ids) == "Let me <tool_call> see"
    assert not controls(tokenizer, rendered.prefill_ids)
    assert "# Tools" in tokenizer.decode(rendered.policy_ids)


# --- tools written into messages ---


@pytest.mark.parametrize("template", IGNORANT)
def test_tools_in_the_messages(template):
    tokenizer = tokenizer_for(IGNORANT[template])
    renderer = PromptRenderer(tokenizer, tool_format=HERMES)
    assert renderer.tool_format is HERMES
    messages = [
        SystemMessage("Be brief."),
        HumanMessage("Weather?"),
        AIMessage("Let me see.", tool_calls=[call("weather", "a", place='Köln "<b>"'), call("now", "b")]),
        ToolMessage("sunny", tool_call_id="a"),
        ToolMessage("late", tool_call_id="b"),
    ]
    decoded = tokenizer.decode(renderer.render(messages, TOOLS).policy_ids)
    places = [
        "Be brief.",
        "# Tools",
        json.dumps(TOOL, ensure_ascii=False),
        json.dumps(OTHER, ensure_ascii=False),
        "\n</tools>\n",
        "Let me see.\n" + call_text("weather", {"place": 'Köln "<b>"'}) + "\n" + call_text("now", {}),
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nlate\n</tool_response>",
    ]
    if template in ("gemma", "dropping"):  # no system role: tools first, then what the system message said
        places = [*places[1:5], places[0], *places[5:]]
    found = [decoded.index(place) for place in places]
    assert found == sorted(found)
    for fewer in (messages[1:], messages[1:2]):
        assert "# Tools" in tokenizer.decode(renderer.render(fewer, TOOLS).policy_ids)
    plain = PromptRenderer(tokenizer).render([HumanMessage("Hi")])
    assert renderer.render([HumanMessage("Hi")]) == plain


def test_tools_in_the_messages_are_those_of_qwen():
    tokenizer = tokenizer_for(QWEN25)
    written = PromptRenderer(tokenizer, chat_template=CHATML, tool_format=HERMES)
    for messages in conversations(3, 30, parallel=True):
        if not isinstance(messages[0], SystemMessage):
            messages = [SystemMessage("You are a helpful assistant."), *messages]
        expected = apply(tokenizer, as_dicts(messages))
        ids = list(written.render(messages, TOOLS).policy_ids)
        # Qwen's has an empty line where a message says nothing but calls, and blanks around calls count
        assert tokenizer.decode(ids) == tokenizer.decode(expected)


@pytest.mark.parametrize("template", ["gemma", "mistral"])
def test_a_question_right_after_a_result_where_turns_alternate(template):
    tokenizer = tokenizer_for(IGNORANT[template])
    messages = [
        HumanMessage("Weather?"),
        AIMessage("", tool_calls=[call()]),
        ToolMessage("sunny", tool_call_id="abcdefghi"),
        HumanMessage("So?"),
    ]
    decoded = tokenizer.decode(PromptRenderer(tokenizer, tool_format=HERMES).render(messages, TOOLS).policy_ids)
    assert "<tool_response>\nsunny\n</tool_response>\n\nSo?" in decoded


def test_a_history_with_calls_but_no_tools():
    tokenizer = tokenizer_for(CHATML)
    messages = [HumanMessage("?"), AIMessage("", tool_calls=[call()]), ToolMessage("3", tool_call_id="abcdefghi")]
    decoded = tokenizer.decode(PromptRenderer(tokenizer, tool_format=HERMES).render(messages).policy_ids)
    assert "assistant\n" + call_text("weather", {}) + "<|im_end|>\n<|im_start|>user\n<tool_response>\n3" in decoded
    assert "# Tools" not in decoded


def test_a_chosen_form_that_is_not_the_templates():
    tokenizer = tokenizer_for(MISTRAL_TOOLS)
    decoded = tokenizer.decode(
        PromptRenderer(tokenizer, tool_format=HERMES).render([HumanMessage("?")], TOOLS).policy_ids
    )
    assert "[AVAILABLE_TOOLS]" not in decoded
    assert "# Tools" in decoded
    own = tokenizer_for(QWEN25)
    chosen = PromptRenderer(own, tool_format=HERMES).render([HumanMessage("?")], TOOLS)
    assert chosen == PromptRenderer(own).render([HumanMessage("?")], TOOLS)


# --- safety ---


def _hostile_conversation(generator, strings):
    def text():
        return hostile_text(generator, strings) if generator.random() < 0.7 else "x"

    # the same shape with neutral words
    hostile = {
        name: text()
        for name in ("question", "said", "value", "key", "result", "name", "description", "parameter", "other")
    }
    hostile["id"] = generator.choice(["abcdefghi", text()])
    return hostile


NEUTRAL = {
    "question": "x", "said": "x", "value": "x", "key": "x y", "result": "x", "name": "x", "description": "x",
    "parameter": "x y", "other": "x", "id": "abcdefghi",
}  # fmt: skip


def _conversation(text):
    args = {text["key"] or "k": [text["value"], {"inner": text["value"]}], "n": 1}
    schema = {
        "type": "object",
        "properties": {text["parameter"] or "p": {"type": "string", "description": text["description"]}},
        "required": [text["parameter"]],
        "title": text["other"],
    }
    tool = {"name": text["name"] or "n", "description": text["description"], "parameters": schema}
    messages = [
        HumanMessage(text["question"] or "q"),
        AIMessage(text["said"], tool_calls=[{"name": text["name"] or "n", "args": args, "id": text["id"]}]),
        ToolMessage(text["result"], tool_call_id=text["id"], name=text["name"]),
        AIMessage(text["said"] or "s"),
        HumanMessage(text["question"] or "q"),
    ]
    return messages, [{"type": "function", "function": tool}]


@pytest.mark.parametrize(
    "template",
    [
        name if name in ("llama3.1", "qwen2.5", "joining", "chatml") else pytest.param(name, marks=pytest.mark.slow)
        for name in [*sorted(set(PUBLISHED) - {"mistral"}), "joining", *IGNORANT]
    ],
)
def test_hostile_tools_and_results_stay_plain_text(template):
    sources = {**PUBLISHED, **IGNORANT, "joining": JOINING}
    tokenizer = tokenizer_for(sources[template])
    form = HERMES if template in IGNORANT else None
    renderer = PromptRenderer(tokenizer, reward_template=RewardTemplate.published(), tool_format=form)
    strings = [token.content for token in tokenizer.added_tokens_decoder.values()]
    generator = random.Random(template)
    for _ in range(40):
        hostile = _hostile_conversation(generator, strings)
        expected = renderer.render(*_conversation(NEUTRAL))
        actual = renderer.render(*_conversation(hostile))
        assert controls(tokenizer, actual.policy_ids) == controls(tokenizer, expected.policy_ids), hostile
        assert controls(tokenizer, actual.reward_ids) == controls(tokenizer, expected.reward_ids), hostile


def test_a_key_that_is_a_control_token():
    tokenizer = byte_level_tokenizer(chat_template=QWEN25, extra_tokens=(*CONTROLS, "WORD"))
    renderer = PromptRenderer(tokenizer)
    word = tokenizer.convert_tokens_to_ids("WORD")
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"WORD": {"type": "string"}}}}
    messages = [
        HumanMessage("?"),
        AIMessage("", tool_calls=[call("f", "WORD", WORD="WORD")]),
        ToolMessage("WORD", tool_call_id="WORD"),
    ]
    ids = renderer.render(messages, [{"type": "function", "function": tool}]).policy_ids
    assert word not in ids
    assert '"WORD": "WORD"' in tokenizer.decode(ids)


# --- the reward model ---


def test_the_reward_model_reads_a_history_as_corpora_are_read():
    tokenizer = tokenizer_for(QWEN25)
    template = RewardTemplate.published()
    renderer = PromptRenderer(tokenizer, reward_template=template)
    for messages in conversations(4, 40, parallel=True):
        record = [{**one, "content": one["content"]} for one in as_dicts(messages)]
        (turns,) = conversations_of({"messages": [*record, {"role": "assistant", "content": "x"}]})
        expected = template.prompt_ids(tokenizer, [(turn["role"], turn_text(turn)) for turn in turns[:-1]])
        assert list(renderer.render(messages, TOOLS).reward_ids) == expected


def test_the_kitchen_reads_prompts_as_its_models_were_trained_on_them():
    tokenizer = AutoTokenizer.from_pretrained(KITCHEN / "policy")
    renderer = PromptRenderer(tokenizer, reward_template=TEMPLATE)
    assert renderer.tool_format is HERMES
    calling = 0
    for item in kitchen_conversations("mrm", 250, seed=3):
        said = [dict(message) for message in item.messages]
        expected = apply(tokenizer, said[:-1], list(item.tools) or None)
        for number, message in enumerate(said):
            for place, one in enumerate(message.get("tool_calls", ())):
                one["id"] = f"{number}-{place}"
        messages = convert_to_messages(
            [{**one, **({"tool_call_id": "0"} if one["role"] == "tool" else {})} for one in said[:-1]]
        )
        rendered = renderer.render(messages, item.tools)
        assert list(rendered.policy_ids) == expected
        assert list(rendered.reward_ids) == encode_reward(tokenizer, item).prompt
        calling += any(message.get("tool_calls") for message in said[:-1])
    assert calling > 8


def test_response_template_is_asked_last():
    tokenizer = tokenizer_for(UNKNOWN)
    tokenizer.response_template = {"start_anchor": "x", "fields": {"tool_calls": {"open": "[TOOL_CALLS]"}}}
    assert PromptRenderer(tokenizer).tool_format is RESPONSE_TEMPLATE
    tokenizer.chat_template = QWEN25
    assert PromptRenderer(tokenizer).tool_format is HERMES
