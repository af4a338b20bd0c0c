import time

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from langchain_saffron.errors import SaffronError, VocabularyMismatchError
from langchain_saffron.models.vocabulary import check_vocabularies, vocabulary_hash
from unit_tests.builders import byte_level_tokenizer, metaspace_tokenizer


def word_tokenizer(words, special=(), reserved=0):
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*special, *(f"<|reserved_{i}|>" for i in range(reserved))])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_same_vocabulary():
    check_vocabularies(byte_level_tokenizer(), byte_level_tokenizer())
    assert vocabulary_hash(byte_level_tokenizer()) == vocabulary_hash(byte_level_tokenizer())


def test_special_and_reserved_tokens_may_differ():
    words = ["a", "b", "c"]
    policy = word_tokenizer(words, ["<|eot_id|>", "<|python_tag|>"], reserved=3)
    guard = word_tokenizer(words, ["<|eot|>"])
    check_vocabularies(policy, guard)
    assert vocabulary_hash(policy) == vocabulary_hash(guard)


def test_blank_runs_are_ordinary_tokens():
    plain, with_runs = byte_level_tokenizer(), byte_level_tokenizer(blank_runs=True)
    assert vocabulary_hash(plain) != vocabulary_hash(with_runs)
    with pytest.raises(VocabularyMismatchError, match="control token"):
        check_vocabularies(plain, with_runs)


def test_error_says_what_differs():
    policy = word_tokenizer(["a", "b", "c", "d", "e"], ["<s>"])
    guard = word_tokenizer(["a", "x", "c", "d"], ["<s>"])
    with pytest.raises(VocabularyMismatchError) as caught:
        check_vocabularies(policy, guard)
    message = str(caught.value)
    assert "The policy has 5, the reward model 4, and 2 ids differ" in message
    assert "id 1: 'b' / 'x'" in message
    assert "id 4: 'e' / control token '<s>'" in message
    assert isinstance(caught.value, SaffronError)
    assert isinstance(caught.value, ValueError)


def test_error_shows_only_a_few():
    with pytest.raises(VocabularyMismatchError, match="…") as caught:
        check_vocabularies(byte_level_tokenizer(), metaspace_tokenizer())
    assert len(str(caught.value)) < 1000
    with pytest.raises(VocabularyMismatchError, match="nothing"):
        check_vocabularies(word_tokenizer(["a"]), word_tokenizer(["a", "b"]))


@pytest.mark.parametrize("words", [["b", "a", "c"], ["a", "b"], ["a", "b", "C"], ["a", "b", "c", "d"]])
def test_hash_depends_on_every_token_and_id(words):
    assert vocabulary_hash(word_tokenizer(words)) != vocabulary_hash(word_tokenizer(["a", "b", "c"]))


def test_hash_is_not_fooled_by_separators():
    assert vocabulary_hash(word_tokenizer(["a", "b"])) != vocabulary_hash(word_tokenizer(["a\n1 1 b"]))


def test_hash_is_stable():
    assert vocabulary_hash(word_tokenizer(["a", "b", "c"], ["<s>"])) == (
        "6afe3edb12d5acf29cceda1fc2b392c20fb01583633ff06a49e1dba6706a73e4"
    )


@pytest.mark.slow
def test_large_vocabularies_take_less_than_a_second():
    words = [f"word{i}" for i in range(128_000)]
    policy, guard = word_tokenizer(words, ["<s>"], 256), word_tokenizer(words, ["<|s|>"], 256)
    start = time.process_time()
    check_vocabularies(policy, guard)
    checked = time.process_time()
    vocabulary_hash(policy)
    assert checked - start < 1
    assert time.process_time() - checked < 1
