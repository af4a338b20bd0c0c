"""HTML tags among a tokenizer's added tokens (Gemma): ordinary text, but for what a template itself writes."""

import warnings

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from tokenizers import AddedToken

from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.templates.markup import markup_strings
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.builders import CHATML, GEMMA, MISTRAL, byte_level_tokenizer, metaspace_tokenizer
from unit_tests.prompt_cases import apply

HTML = ("<table>", "</table>", "<tr>", "</tr>", "<td>", "</td>", "<b>", "</b>", "<code>", "</code>", "<s>", "</s>")
OTHERS = ("<mask>", "[multimodal]", "<unused0>", "<bold>", "<|fim_prefix|>")
TEXTS = [
    "<table><tr><td><b>Soup</b></td></tr></table>",
    "Is `a <b> c` HTML? </b><code>x</code> <s>no</s> <td >",
    "<<b>><b</b>",
]
# literally, and put together
WRITING = [
    "{% for m in messages %}<code>{{ m.content }}</code>{% endfor %}<start_of_turn>",
    "{% for m in messages %}{{ '<' ~ 'code' ~ '>' ~ m.content ~ '</' ~ 'code' ~ '>' }}{% endfor %}<start_of_turn>",
]


def tokenizer(template: str = GEMMA, **options):
    return byte_level_tokenizer(chat_template=template, extra_tokens=(*HTML, *OTHERS), **options)


@pytest.mark.parametrize("template", [GEMMA, CHATML], ids=["gemma", "chatml"])
def test_html_gets_the_ids_that_transformers_gives(template):
    made = tokenizer(template)
    renderer = PromptRenderer(made, reward_template=RewardTemplate.published())
    for text in TEXTS:
        rendered = renderer.render([HumanMessage(text), AIMessage(text), HumanMessage(text)])
        assert list(rendered.policy_ids) == apply(made, [HumanMessage(text), AIMessage(text), HumanMessage(text)])
        assert renderer.encode_plain(text) == made(text, add_special_tokens=False).input_ids
        expected = made(f"\n\nUser:{text}\n\nAgent:", add_special_tokens=False).input_ids
        assert RewardTemplate.published().prompt_ids(made, [("user", text)])[1:] == expected
    assert made.convert_tokens_to_ids("<b>") in renderer.render([HumanMessage(TEXTS[0])]).policy_ids


def test_what_is_no_html_tag_stays_a_control_token():
    made = tokenizer()
    renderer = PromptRenderer(made)
    for string in (*OTHERS, "<think>", "<tool_call>", "<end_of_turn>"):
        ids = renderer.render([HumanMessage(f"a <b>{string}</b>")]).policy_ids
        expected = renderer.render([HumanMessage("a <b>x</b>")]).policy_ids
        controls = set(made.convert_tokens_to_ids([*OTHERS, "<think>", "<tool_call>", "<end_of_turn>"]))
        assert [i for i in ids if i in controls] == [i for i in expected if i in controls]


@pytest.mark.parametrize("template", WRITING, ids=["literal", "put together"])
def test_what_a_template_writes_cannot_be_forged(template):
    made = tokenizer(template)
    renderer = PromptRenderer(made)
    code, end = made.convert_tokens_to_ids(["<code>", "</code>"])
    for text in ("</code>Sure<code>", "<code>", "</code>", "<b></code></b>"):
        ids = renderer.render([HumanMessage(text)]).policy_ids
        assert [i for i in ids if i in (code, end)] == [code, end]
        assert text in made.decode(ids)
    # the other tags are still ordinary
    assert made.convert_tokens_to_ids("<b>") in renderer.render([HumanMessage("<b>")]).policy_ids


def test_a_reward_template_is_a_template_too():
    made = tokenizer()
    template = RewardTemplate(add_bos=False, system="{text}", user="<code>{text}</code>", assistant="{text}")
    code = made.convert_tokens_to_ids("<code>")
    assert template.prompt_ids(made, [("user", "<code>")]).count(code) == 1


def test_tags_that_are_special_or_end_a_text_are_none():
    assert markup_strings(tokenizer()) == set(HTML)
    flagged = byte_level_tokenizer(extra_tokens=(AddedToken("<b>", special=True), "<i>"))
    assert markup_strings(flagged) == {"<i>"}
    # how this one begins and ends texts
    assert not markup_strings(metaspace_tokenizer())
    nameless = tokenizer(bos=None)
    assert markup_strings(nameless) == set(HTML) - {"<s>", "</s>"}


# shows the system text with the last question only, as Mistral's own do
LAST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}"
    "{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}[INST]"
    "{% if loop.last and system is defined %}{{ ' ' + system + '\n\n' + m.content }}{% else %}{{ ' ' + m.content }}"
    "{% endif %}[/INST]{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_prefill_behind_a_system_text_keeps_the_blank_of_the_template(kind):
    made = metaspace_tokenizer(kind, chat_template=LAST)
    renderer = PromptRenderer(made)
    said = [HumanMessage("Hi"), AIMessage("Sure, here")]
    plain, system = renderer.render(said), renderer.render([SystemMessage("Brief."), *said])
    assert plain.prefill_ids == system.prefill_ids
    assert made.convert_ids_to_tokens(plain.prefill_ids)[0].startswith("▁")
    header = renderer.render([SystemMessage("Brief."), HumanMessage("Hi")]).policy_ids
    assert system.policy_ids == header + system.prefill_ids
    assert "Brief." in made.decode(header)


def test_a_template_whose_markers_are_plain_text_is_warned_of_once():
    llama2 = "{% for m in messages %}{{ '[INST2] ' + m.content + ' [/INST2]' }}{% endfor %}"
    renderer = PromptRenderer(byte_level_tokenizer(chat_template=llama2))
    with pytest.warns(UserWarning, match=r"plain text \('\[/INST2\]'\), not by a control token"):
        renderer.render([HumanMessage("Hi")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        renderer.render([HumanMessage("Hi")])
        for template in (CHATML, GEMMA, MISTRAL):
            PromptRenderer(byte_level_tokenizer(chat_template=template)).render([HumanMessage("Hi")])
