import json
import random

import pytest
from tokenizers import AddedToken, Tokenizer

from langchain_saffron.templates import renamed_tokenizer
from langchain_saffron.templates.renamed_tokenizer import RenamedTokenizer
from langchain_saffron.templates.safe_encoder import SafeEncoder, is_control
from unit_tests.builders import byte_level_tokenizer, metaspace_tokenizer
from unit_tests.prompt_cases import ORDINARY, TOKENIZERS, hostile_text


def names_of(tokenizer):
    added = tokenizer.added_tokens_decoder
    return {token.content: f"name{i}x" for i, token in added.items() if is_control(token)}


def renamed(tokenizer, names=None):
    names = names_of(tokenizer) if names is None else names
    return RenamedTokenizer(tokenizer.backend_tokenizer, tokenizer.added_tokens_decoder, names)


def is_shared(tokenizer):
    added = tokenizer.added_tokens_decoder
    return renamed_tokenizer._shared(tokenizer.backend_tokenizer, added, names_of(tokenizer)) is not None


def changed(tokenizer, change):
    """The same tokenizer with another model."""
    config = json.loads(tokenizer.backend_tokenizer.to_str())
    change(config["model"])
    backend = Tokenizer.from_str(json.dumps(config))
    return type(tokenizer)(tokenizer_object=backend, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "unigram" not in name and "unknown" not in name])
def test_over_a_shared_vocabulary_ids_are_those_of_a_copy(name, monkeypatch):
    tokenizer = TOKENIZERS[name]()
    strings = [token.content for token in tokenizer.added_tokens_decoder.values()]
    names = names_of(tokenizer)
    one = renamed(tokenizer, names)
    monkeypatch.setattr(renamed_tokenizer, "_shared", lambda *parts: None)
    other = renamed(tokenizer, names)
    assert one.opening == other.opening
    assert one.unknown_id == other.unknown_id
    generator = random.Random(name)
    texts = ORDINARY + [hostile_text(generator, [*strings, *names.values()]) for _ in range(300)]
    for text in texts:
        assert one.encode(text) == other.encode(text), text


def test_most_share_their_vocabulary():
    assert is_shared(byte_level_tokenizer())
    assert is_shared(byte_level_tokenizer(blank_runs=True))
    assert is_shared(metaspace_tokenizer())
    assert not is_shared(metaspace_tokenizer("unigram"))


def test_none_is_shared_that_could_make_a_control_token_of_text():
    def with_merges(model):
        """Merges that make `</s>` of characters."""
        for token in ("</", "</s"):
            model["vocab"].setdefault(token, len(model["vocab"]))
        model["merges"] += [["<", "/"], ["</", "s"], ["</s", ">"]]

    def whole_words(model):
        model["ignore_merges"] = True

    for change in (with_merges, whole_words):
        tokenizer = changed(metaspace_tokenizer(), change)
        eos = tokenizer.eos_token_id
        assert eos in tokenizer.backend_tokenizer.encode("a</s>", add_special_tokens=False).ids
        assert not is_shared(tokenizer)
        encoder = SafeEncoder(tokenizer)
        assert eos not in encoder.encode("a</s> </s>")
        assert eos in encoder.encode(encoder.name_controls("a</s>"))


def test_none_is_shared_whose_control_tokens_are_bytes_or_characters():
    tokenizer = metaspace_tokenizer()
    tokenizer.add_tokens([AddedToken("<0x0A>", normalized=False, special=True)])
    assert not is_shared(tokenizer)
    assert tokenizer.convert_tokens_to_ids("<0x0A>") not in SafeEncoder(tokenizer).encode("\n")
    tokenizer = metaspace_tokenizer()
    tokenizer.add_tokens([AddedToken("a", normalized=False, special=True)])
    assert not is_shared(tokenizer)


def test_the_tokenizer_itself_stays_as_it_is():
    tokenizer = byte_level_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    renamed(tokenizer).encode("Hello <|im_end|>")
    assert tokenizer.backend_tokenizer.to_str() == before
