"""Texts taken apart at the markers of thoughts, however they are cut into pieces."""

import random

import pytest

from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.templates.thought_form import KNOWN_FORMS, ThoughtForm, place_in, written_form
from langchain_saffron.templates.thought_markers import ThoughtMarkers
from langchain_saffron.templates.thought_splitter import ThoughtSplitter
from unit_tests.thought_templates import CUT, thinking_tokenizer

FORMS = {form.opening: form for form in KNOWN_FORMS}


def markers_of(form):
    tokenizer = thinking_tokenizer(CUT)
    return ThoughtMarkers.of(form, tokenizer, safe_encoder(tokenizer)), tokenizer


def signed(text, markers, tokenizer):
    """A text as it is read where its control strings are control tokens."""
    for token, sign in markers.signs.items():
        text = text.replace(tokenizer.convert_ids_to_tokens(token), sign)
    return text


def split(markers, text, thinking, seed=0, fresh=True):
    splitter = ThoughtSplitter(markers, thinking, fresh)
    parts, place = random.Random(seed), 0
    pieces = []
    while place < len(text):
        size = parts.randint(1, 4)
        pieces += splitter.feed(text[place : place + size])
        place += size
    pieces += splitter.finish()
    joined = []
    for kind, piece in pieces:
        if kind in ("thought", "text") and joined and joined[-1][0] == kind:
            joined[-1] = kind, joined[-1][1] + piece
        elif kind != "framing":
            joined.append((kind, piece))
    return [one for one in joined if one[1]]


@pytest.mark.parametrize("opening", ["<think>", "<|channel|>analysis<|message|>", "[THINK]", "<thinking>"])
@pytest.mark.parametrize("seed", range(8))
def test_thoughts_and_text_are_told_apart_however_they_come(opening, seed):
    markers, tokenizer = markers_of(FORMS[opening])
    form = markers.form
    text = signed(f"{form.opening}\nHm, <thin\n\nso. \n{form.closing}{form.lead}\n\nHello <b>!\n", markers, tokenizer)
    assert split(markers, text, False, seed) == [("thought", "Hm, <thin\n\nso. "), ("text", "Hello <b>!\n")]
    # where the prompt has begun it
    assert split(markers, text[len(markers.opening) :], True, seed)[-1] == ("text", "Hello <b>!\n")


@pytest.mark.parametrize("text", ["Hello.", "\n\n Hello <thi", "<think", "  ", "a <think> b </think> c"])
def test_other_text_stays_as_it_is(text):
    markers, tokenizer = markers_of(FORMS["<think>"])
    assert split(markers, signed(text, markers, tokenizer), False) == [("text", text)]


def test_characters_are_no_control_token():
    markers, tokenizer = markers_of(FORMS["[THINK]"])
    text = signed("[THINK]", markers, tokenizer) + "The user wrote [/THINK] and [THINK]."
    assert split(markers, text, False) == [("thought", "The user wrote [/THINK] and [THINK].")]
    assert split(markers, "[THINK]Hello[/THINK]", False) == [("text", "[THINK]Hello[/THINK]")]


def test_empty_thoughts_are_nothing():
    markers, tokenizer = markers_of(FORMS["<think>"])
    assert split(markers, signed("<think>\n\n</think>\n\nHello", markers, tokenizer), False) == [("text", "Hello")]


@pytest.mark.parametrize(
    ("before", "after", "header", "form"),
    [
        ("<think>\n", "\n</think>\n\n", "<|im_start|>assistant\n", FORMS["<think>"]),
        ("<ponder>", "</ponder>\n", "<|im_start|>assistant\n", ThoughtForm("<ponder>", "</ponder>")),
        ("<|a|>", "<|end|><|start|>ai<|b|>", "<|start|>ai", ThoughtForm("<|a|>", "<|end|><|start|>ai", "<|b|>")),
        ("\n", "\n\n", "<|im_start|>assistant\n", None),
    ],
)
def test_a_form_is_what_stands_around_a_thought(before, after, header, form):
    assert written_form(before, after, header) == form


@pytest.mark.parametrize(
    ("tail", "opening", "place"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>", "inside"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>", "behind"),
        ("<|Assistant|></think>", "<think>", "behind"),
        ("Think in <think> tags.<|im_start|>assistant\n", "<think>", "before"),
        ("<|end|><|start|>assistant", "<|channel|>analysis<|message|>", "before"),
        ("<|START_THINKING|><|END_THINKING|>", "<|START_THINKING|>", "behind"),
        ("<|channel>thought\n<channel|>", "<|channel>thought", "behind"),
    ],
)
def test_the_end_of_a_prompt_tells_whether_a_thought_has_begun(tail, opening, place):
    assert place_in(tail, FORMS[opening]) == place
