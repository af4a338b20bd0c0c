"""Markers around what is said are no part of it, however the text is cut; elsewhere they are text."""

from dataclasses import replace

import pytest

from langchain_saffron.engine.marker_signs import MarkerSigns
from langchain_saffron.engine.stop_strings import StopFilter
from langchain_saffron.engine.thought_reader import ThoughtReader
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.templates.thought_form import KNOWN_FORMS, ThoughtForm, with_answer_markers
from langchain_saffron.templates.thought_markers import ThoughtMarkers
from langchain_saffron.templates.thoughts import Thoughts
from unit_tests.builders import byte_level_tokenizer

THINK = ThoughtForm("<thinking>", "</thinking>")
APRIEL = ThoughtForm("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]")


def read(form, text, place, size):
    tokenizer = byte_level_tokenizer()
    splitter = Thoughts(ThoughtMarkers.of(form, tokenizer, safe_encoder(tokenizer)), place).splitter()
    pieces = [piece for start in range(0, len(text), size) for piece in splitter.feed(text[start : start + size])]
    pieces += splitter.finish()
    return tuple("".join(text for kind, text in pieces if kind == wanted) for wanted in ("thought", "text"))


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("<thinking>Hm.</thinking>\n<response>\nYes.\n</response>\n", "before", ("Hm.", "Yes.")),
        ("Hm.</thinking><response>Yes, <response>.</response>", "inside", ("Hm.", "Yes, <response>.")),
        ("<response>Yes.</response>", "behind", ("", "Yes.")),
        ("<response>A</response> and </response> B", "before", ("", "A</response> and </response> B")),
        ("<thinking>Hm.</thinking>So <response>x</response>", "before", ("Hm.", "So <response>x</response>")),
        ("<response>cut </resp", "before", ("", "cut </resp")),
        ("<respond", "before", ("", "<respond")),
        ("<response>x</response>", "said", ("", "<response>x</response>")),
    ],
)
def test_tags_around_the_answer(text, place, expected, size):
    form = with_answer_markers(THINK, "Write your response between <response></response>.")
    assert read(form, text, place, size) == expected


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_final_responses(size):
    form = with_answer_markers(APRIEL, "")
    said = "Hm.\n[BEGIN FINAL RESPONSE]\nYes.\n[END FINAL RESPONSE]\n"
    assert read(form, said, "inside", size) == ("Hm.", "Yes.")
    assert read(form, "[BEGIN FINAL RESPONSE]\nYes.\n[END FINAL RESPONSE]", "before", size) == ("", "Yes.")


def test_only_what_a_template_speaks_of():
    assert with_answer_markers(THINK, "nothing of it") == THINK
    assert with_answer_markers(THINK, "<answer>") == replace(THINK, answer=("<answer>", "</answer>"))


@pytest.mark.parametrize("whole", [True, False])
def test_markers_are_not_among_the_tokens_of_what_is_said(whole):
    tokenizer = byte_level_tokenizer()
    form = with_answer_markers(THINK, "<response>")
    thoughts = Thoughts(ThoughtMarkers.of(form, tokenizer, safe_encoder(tokenizer)), "before")
    reader = ThoughtReader(tokenizer, thoughts)
    pieces = ("<thinking>", "Hm.", "</thinking>", "<response>", "Yes, it is.", "</response>")
    texts = ["".join(pieces)] if whole else pieces
    end = tokenizer.eos_token_id
    for token in [i for text in texts for i in tokenizer(text, add_special_tokens=False).input_ids] + [end]:
        reader.push(token)
    reader.finish()
    said = tokenizer.decode(reader.said)
    assert "Yes, it is." in said
    # but for tokens that hold some of both
    assert len(said) < len("Yes, it is.") + 4 + len(tokenizer.eos_token)
    assert reader.said[-1] == end


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_leads_that_are_text_are_left_out_where_the_answer_begins(size):
    form = next(one for one in KNOWN_FORMS if one.lead.startswith("<|channel|>final"))
    said = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.\n"
    assert read(form, said, "before", size) == ("Hm.", "Yes.\n")
    assert read(form, "<|channel|>final<|message|>Yes.", "before", size) == ("", "Yes.")
    quoted = "It is <|channel|>final<|message|>."
    assert read(form, quoted, "before", size) == ("", quoted)


def test_a_stop_string_is_cut_where_a_control_token_stands_in_it():
    sign = MarkerSigns({7: "<x>"}).of_token[7]
    for pieces in ([f"say sto{sign}p it"], ["say s", "to", sign, "p it"]):
        stops = StopFilter(["stop"])
        assert "".join(map(stops.release, pieces)) == "say "
        assert stops.stopped
    stops = StopFilter(["stop"])
    assert stops.release(f"sto{sign}") + stops.release("ry", last=True) == f"sto{sign}ry"
