"""From final tokens to final text."""

import random

import pytest

from langchain_saffron.engine.detokenizer import decode
from langchain_saffron.engine.stop_strings import StopChecker
from langchain_saffron.engine.text_stream import TextStream
from unit_tests.builders import byte_level_tokenizer, metaspace_tokenizer

TEXTS = [
    "How do I cook saffron rice for four people?",
    "Grüße aus Köln! Ça va? 你好，世界。",
    "family 👨‍👩‍👧‍👦 and flags 🇩🇪🇯🇵, combining e\u0301 a\u0308",
    "  leading, trailing  \n\n\ttabs\n",
]


def tokenizers():
    return {"bytes": byte_level_tokenizer(), "metaspace": metaspace_tokenizer()}


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_whole_and_never_hold_half_a_character(kind: str, text: str):
    tokenizer = tokenizers()[kind]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    stream = TextStream(tokenizer)
    pieces = ["".join(stream.pieces([token])) for token in ids]
    pieces.append("".join(stream.last_pieces()))
    assert "".join(pieces) == decode(tokenizer, ids) == stream.text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_broken_end_is_given_out_at_the_end():
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("🎉", add_special_tokens=False).input_ids
    assert len(ids) > 1
    stream = TextStream(tokenizer)
    assert "".join(stream.pieces(ids[:1])) == ""
    assert "".join(stream.last_pieces()) == "\ufffd"


@pytest.mark.parametrize("stop", ["for four", "people?", "o", "rice f"])
def test_nothing_of_a_stop_string_is_ever_given_out(stop: str):
    tokenizer = byte_level_tokenizer()
    text = TEXTS[0]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    stream = TextStream(tokenizer, [stop, "never"])
    out = ""
    for token in ids:
        out += "".join(stream.pieces([token]))
        assert text[: text.index(stop)].startswith(out)
    out += "".join(stream.last_pieces())
    assert out == text[: text.index(stop)]
    assert stream.stopped


def test_what_only_looked_like_a_stop_string_is_given_out_after_all():
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("the end of it", add_special_tokens=False).input_ids
    stream = TextStream(tokenizer, ["end of time", "of it all"])
    out = "".join("".join(stream.pieces([token])) for token in ids)
    assert out == "the "[: len(out)] or out == "the end "
    assert out + "".join(stream.last_pieces()) == "the end of it"


def test_a_continued_prompt_keeps_the_space_between_words():
    tokenizer = metaspace_tokenizer()
    ids = tokenizer("cook saffron rice", add_special_tokens=False).input_ids
    context, rest = ids[:2], ids[2:]
    stream = TextStream(tokenizer, context=context)
    out = "".join(stream.pieces(rest)) + "".join(stream.last_pieces())
    assert decode(tokenizer, context) + out == "cook saffron rice"


@pytest.mark.parametrize("seed", range(30))
def test_the_checker_sees_a_stop_string_when_its_last_token_comes(seed: int):
    rng = random.Random(seed)
    tokenizer = byte_level_tokenizer()
    text = rng.choice(TEXTS)
    start = rng.randrange(len(text) - 3)
    stop = text[start : start + rng.randint(1, 6)]
    if "\u200d" in stop or "\u0301" in stop:
        stop = text[:3]
    checker = StopChecker(tokenizer, [stop])
    ids = tokenizer(text, add_special_tokens=False).input_ids
    first = next(n for n in range(1, len(ids) + 1) if stop in decode(tokenizer, ids[:n]))
    assert checker(ids[:first])
    assert not any(checker(ids[:n]) for n in range(1, first))


def test_no_stop_strings_never_stop():
    assert not StopChecker(byte_level_tokenizer(), [])([1, 2, 3])
