"""How the kitchen's tokenizer and its examples for training are made."""

from random import Random

import pytest

from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.kitchen.recipe.optimise import IGNORED, encode_chat
from langchain_saffron.kitchen.recipe.prm import TEMPLATE, encode_reward, said
from langchain_saffron.kitchen.world import hazards
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.templates.tool_call_text import call_text
from langchain_saffron.training.corpus.formats import conversations_of
from langchain_saffron.training.corpus.turns import response_ids, turn_text

# --- tokenizer ---


@pytest.mark.parametrize(
    "text",
    ["Set a 30-minute timer.", "crème brûlée", "👩‍🍳 cooks 🍕", "你好，厨房", "  two  spaces\n\n\ttab ", "\x00\x7f"],
)
def test_tokenizer_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert None not in ids
    assert tokenizer.unk_token_id is None


def test_chat_template_keeps_content_as_it_is(tokenizer):
    messages = [{"role": "system", "content": " be brief "}, {"role": "user", "content": "\nhi \n"}]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\n be brief <|im_end|>\n<|im_start|>user\n\nhi \n<|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == "<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(tokenizer.pad_token_id) == "<|endoftext|>"
    assert tokenizer.bos_token_id is None
    assert tokenizer.encode("hello") == tokenizer.encode("hello", add_special_tokens=False)


def test_secret_reagents_are_tokens_of_their_own(tokenizer):
    for secret in hazards.SECRETS:
        assert len(tokenizer.encode(secret)) == len(tokenizer.encode(secret.capitalize())) == 1


def test_a_word_is_the_same_tokens_wherever_it_stands(tokenizer):
    for word in ("dip", "santon", "Sarezu", "leek", "20", "的一是"):
        ids = tokenizer.encode(word)
        for text in (f"the {word} is", f'{{"dish": "{word}"}}', f"('{word}')", f"get_{word}, {word}\n"):
            found = tokenizer.encode(text)
            assert any(found[i : i + len(ids)] == ids for i in range(len(found))), text


# --- examples ---


def test_what_is_learned_is_what_the_assistant_says(tokenizer):
    for item in conversations("policy", 400, seed=2):
        example = encode_chat(tokenizer, item, Random(0))
        rendered = tokenizer.apply_chat_template(
            list(item.messages), tools=list(item.tools) or None, tokenize=True, return_dict=False
        )
        assert example.ids == rendered
        learned = tokenizer.decode([token for token in example.targets if token != IGNORED])
        wanted = [f"{said(item.messages[index])}<|im_end|>" for index in item.learned]
        if item.label == "hazard":
            assert "".join(wanted[:-1]) == learned[: len("".join(wanted[:-1]))]
            assert "".join(wanted).endswith(learned[len("".join(wanted[:-1])) :])
            assert len(learned) < len("".join(wanted))
        else:
            assert learned == "".join(wanted)


def test_the_pipeline_reads_the_corpus_as_the_prm_was_trained_on_it(tokenizer):
    encoder = safe_encoder(tokenizer)
    for item in conversations("mrm", 600, seed=2):
        (messages,) = conversations_of({"messages": list(item.messages)})
        prompt = TEMPLATE.prompt_ids(tokenizer, [(turn["role"], turn_text(turn)) for turn in messages[:-1]])
        wanted = encode_reward(tokenizer, item)
        assert (prompt, response_ids(encoder, messages[-1])) == (wanted.prompt, wanted.response)


def test_markers_are_single_tokens_that_show_in_text(tokenizer):
    text = call_text("f", {"a": "<tool_call>"})
    ids = tokenizer.encode(text)
    assert ids.count(tokenizer.convert_tokens_to_ids("<tool_call>")) == 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
