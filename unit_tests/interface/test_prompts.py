import time

import pytest
from langchain_core.messages import AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_saffron.errors import PromptError
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.builders import (
    CHATML,
    DROPPING,
    GEMMA,
    LLAMA3,
    MISTRAL,
    THINKING,
    byte_level_tokenizer,
)
from unit_tests.prompt_cases import ORDINARY, TEMPLATES, TOKENIZERS, apply, controls, conversations


@pytest.fixture(params=TOKENIZERS)
def make(request):
    return TOKENIZERS[request.param]


@pytest.mark.parametrize("template", TEMPLATES)
def test_ordinary_text_gives_the_ids_of_apply_chat_template(make, template):
    tokenizer = make(chat_template=TEMPLATES[template])
    renderer = PromptRenderer(tokenizer)
    singles = [[HumanMessage(text)] for text in ORDINARY]
    for messages in [*singles, *conversations(1, 60, system=template != "gemma")]:
        assert list(renderer.render(messages).policy_ids) == apply(tokenizer, messages), messages


@pytest.mark.parametrize("template", TEMPLATES)
def test_prefill_gives_the_ids_of_continue_final_message(make, template):
    tokenizer = make(chat_template=TEMPLATES[template])
    renderer = PromptRenderer(tokenizer, reward_template=RewardTemplate.published())
    equal = 0
    texts = [*ORDINARY, "Sure, here is", "Sure, here is "]
    for text in texts:
        before = [HumanMessage("Hi")]
        rendered = renderer.render([*before, AIMessage(text)])
        header = apply(tokenizer, before)
        alone = renderer.render(before)
        assert rendered.prefill == text
        assert rendered.prefill_ids
        assert rendered.policy_ids[-len(rendered.prefill_ids) :] == rendered.prefill_ids
        assert rendered.reward_ids == alone.reward_ids + rendered.prefill_ids
        assert not controls(tokenizer, rendered.prefill_ids)
        if tokenizer.convert_tokens_to_ids("<unk>") is None:
            assert tokenizer.decode(rendered.prefill_ids).strip() == text.strip()
        if text.endswith("TAG "):  # transformers marks the end of the message with this very text
            continue
        continued = apply(tokenizer, [*before, AIMessage(text)], continue_final_message=True)
        assert list(rendered.policy_ids) in (continued, [*header, *rendered.prefill_ids])
        equal += list(rendered.policy_ids) == continued
    if "\n" not in TEMPLATES[template].rsplit("assistant", 1)[-1] or make is not TOKENIZERS["gpt2"]:
        assert equal >= len(texts) - 6


def test_what_a_template_writes_before_answers_does_not_depend_on_what_a_history_quotes():
    # as gpt-oss's, which writes an answer's channel, and refuses texts that hold one
    template = (
        "{% for m in messages %}{% if '<|im_start|>final' in m.content %}{{ raise_exception('no') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<|im_start|>final {% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_level_tokenizer(chat_template=template)
    for quoted in ("words", "words <|im_start|>final words"):
        rendered = PromptRenderer(tokenizer).render([HumanMessage(quoted), AIMessage("Sure")])
        text = f"<|im_start|>user\n{quoted}<|im_end|>\n<|im_start|>assistant\n<|im_start|>final Sure"
        assert tokenizer.decode(rendered.policy_ids) == text


def test_prefill_after_a_border_that_tokens_would_span():
    # GPT-2's way of cutting words makes one token of "\n\n" at the end, and two before a word.
    tokenizer = byte_level_tokenizer(chat_template=LLAMA3, pattern=None)
    renderer = PromptRenderer(tokenizer)
    header = renderer.render([HumanMessage("x")]).policy_ids
    rendered = renderer.render([HumanMessage("x"), AIMessage("Sure")])
    assert rendered.prefill_ids == tuple(renderer.encode_plain("Sure"))
    assert rendered.policy_ids == header + rendered.prefill_ids
    assert tokenizer.decode(header[-1:]) == "\n\n"


def test_prefill_after_thoughts_that_the_template_adds():
    tokenizer = byte_level_tokenizer(chat_template=THINKING)
    rendered = PromptRenderer(tokenizer).render([HumanMessage("Hi"), AIMessage("Sure thing")])
    assert list(rendered.policy_ids) == apply(
        tokenizer, [HumanMessage("Hi"), AIMessage("Sure thing")], continue_final_message=True
    )
    assert tokenizer.decode(rendered.prefill_ids) == "Sure thing"


@pytest.mark.parametrize("template", [GEMMA, DROPPING, CHATML])
def test_prefill_after_an_assistant_message(template):
    tokenizer = byte_level_tokenizer(chat_template=template)
    messages = [HumanMessage("Hi"), AIMessage("Hello."), AIMessage("And then")]
    rendered = PromptRenderer(tokenizer).render(messages)
    assert tokenizer.decode(rendered.prefill_ids).strip() == "And then"
    assert tokenizer.decode(rendered.policy_ids).endswith("And then")


@pytest.mark.parametrize("tokenizer", ["bpe", "legacy_bpe", "unigram"])
def test_prefill_on_its_own_gets_no_blank_before_it(tokenizer):
    tokenizer = TOKENIZERS[tokenizer](chat_template=GEMMA)
    messages = [HumanMessage("Hi"), AIMessage("Hello."), AIMessage("And then")]
    rendered = PromptRenderer(tokenizer).render(messages)
    assert "".join(tokenizer.convert_ids_to_tokens(rendered.prefill_ids)) == "And▁then"


def test_empty_prefill_is_none():
    tokenizer = byte_level_tokenizer(chat_template=CHATML)
    renderer = PromptRenderer(tokenizer)
    assert renderer.render([HumanMessage("Hi"), AIMessage("")]) == renderer.render([HumanMessage("Hi")])
    blank = renderer.render([HumanMessage("Hi"), AIMessage("\n")])
    assert blank.prefill_ids == tuple(renderer.encode_plain("\n"))


def test_no_doubled_bos():
    for template in [LLAMA3, GEMMA, MISTRAL]:
        tokenizer = byte_level_tokenizer(chat_template=template)
        ids = PromptRenderer(tokenizer).render([HumanMessage("Hi")]).policy_ids
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("template", [GEMMA, DROPPING])
def test_system_text_goes_to_the_user_where_the_template_has_no_system_role(template):
    tokenizer = byte_level_tokenizer(chat_template=template)
    renderer = PromptRenderer(tokenizer, reward_template=RewardTemplate.published())
    rendered = renderer.render([SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Yes?"), HumanMessage("Ok")])
    merged = [HumanMessage("Be brief.\n\nHi"), AIMessage("Yes?"), HumanMessage("Ok")]
    assert list(rendered.policy_ids) == apply(tokenizer, merged)
    assert "\n\nSystem:Be brief.\n\nUser:Hi" in tokenizer.decode(rendered.reward_ids)
    with pytest.raises(PromptError, match=r"System role not supported|leaves out message 1, of role 'system'"):
        renderer.render([SystemMessage("Be brief.")])


def test_neighbours_of_one_role():
    double = [SystemMessage("A"), SystemMessage("B"), HumanMessage("hello"), HumanMessage("hello")]
    leaving = byte_level_tokenizer(chat_template=CHATML)
    assert list(PromptRenderer(leaving).render(double).policy_ids) == apply(leaving, double)
    for template, merged in [
        (MISTRAL, [SystemMessage("A\n\nB"), HumanMessage("hello\n\nhello")]),
        (GEMMA, [HumanMessage("A\n\nB\n\nhello\n\nhello")]),
    ]:
        strict = byte_level_tokenizer(chat_template=template)
        assert list(PromptRenderer(strict).render(double).policy_ids) == apply(strict, merged)


def test_refusal_carries_the_words_of_the_template():
    renderer = PromptRenderer(byte_level_tokenizer(chat_template=GEMMA))
    with pytest.raises(PromptError, match="roles must alternate"):
        renderer.render([AIMessage("Hello"), HumanMessage("Hi")])


def test_no_template():
    renderer = PromptRenderer(byte_level_tokenizer())
    with pytest.raises(PromptError, match=r"chat_template=.*SaffronLLM"):
        renderer.render([HumanMessage("Hi")])
    assert renderer.render_text("Hi").policy_ids
    given = PromptRenderer(byte_level_tokenizer(), chat_template=CHATML).render([HumanMessage("Hi")])
    own = PromptRenderer(byte_level_tokenizer(chat_template=CHATML)).render([HumanMessage("Hi")])
    assert given == own


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "no messages"),
        ([AIMessage("Sure")], "before it"),
        ([HumanMessage([{"type": "image_url", "image_url": {"url": "data:"}}])], "'image_url'"),
        ([HumanMessage(["Look:", {"type": "audio", "base64": ""}])], "'audio'"),
        ([HumanMessage([{"text": "no type"}])], "None"),
        ([ChatMessage("Hi", role="critic")], "'critic'"),
        ([FunctionMessage("Hi", name="f")], "FunctionMessage"),
        ([AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])], "results"),
        ([HumanMessage("Hi"), ToolMessage("1", tool_call_id="1")], None),
    ],
)
def test_refused_messages(messages, says):
    renderer = PromptRenderer(byte_level_tokenizer(chat_template=DROPPING))
    with pytest.raises(PromptError, match=says):
        renderer.render(messages)


def test_content_blocks_and_roles():
    renderer = PromptRenderer(byte_level_tokenizer(chat_template=CHATML))
    expected = renderer.render([SystemMessage("S"), HumanMessage("one two"), AIMessage("No."), HumanMessage("x")])
    actual = renderer.render(
        [
            ChatMessage("S", role="developer"),
            HumanMessage(["one ", {"type": "text", "text": "two"}]),
            AIMessage([{"type": "refusal", "refusal": "No."}]),
            ChatMessage("x", role="User"),
        ]
    )
    assert actual == expected


def test_plain_prompt_without_bos_and_with_end_token():
    tokenizer = byte_level_tokenizer(bos=None)
    renderer = PromptRenderer(tokenizer)
    assert list(renderer.render_text("Hi").policy_ids) == renderer.encode_plain("Hi")
    with pytest.raises(PromptError, match="empty"):
        renderer.render_text("")
    tokenizer = byte_level_tokenizer()
    tokenizer.add_eos_token = True
    assert tokenizer("Hi").input_ids[-1] == tokenizer.eos_token_id
    assert list(PromptRenderer(tokenizer).render_text("Hi").policy_ids) == tokenizer("Hi").input_ids[:-1]


def test_surrogates():
    renderer = PromptRenderer(byte_level_tokenizer(chat_template=CHATML))
    assert renderer.render([HumanMessage("a\ud83d\ude00b\udc00")]) == renderer.render([HumanMessage("a😀b\ufffd")])
    assert renderer.render([HumanMessage("x"), AIMessage("\ud800")]).prefill == "\ufffd"


def test_slow_tokenizers_are_refused():
    with pytest.raises(PromptError, match=r"tokenizer\.json"):
        PromptRenderer(object())


def test_rendering_is_quick():
    renderer = PromptRenderer(
        byte_level_tokenizer(chat_template=CHATML, extra_tokens=tuple(f"<unused{i}>" for i in range(6000))),
        reward_template=RewardTemplate.published(),
    )
    messages = [SystemMessage("You are a helpful assistant.")]
    for _ in range(3):
        messages += [HumanMessage("How do I cook <b>rice</b> for four people? " * 5), AIMessage("Wash the rice. " * 10)]
    messages.append(HumanMessage("And then <|im_end|>?"))
    renderer.render(messages)
    times = []
    for _ in range(20):
        start = time.process_time()
        renderer.render(messages)
        times.append(time.process_time() - start)
    assert min(times) < 0.005
