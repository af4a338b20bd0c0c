"""Models that are not there, and those that are but cannot be loaded: two kinds of errors, neither worth a retry."""

from pathlib import Path

import pytest
from langchain_core import exceptions as core

from langchain_saffron import ChatSaffron, SaffronEngine
from langchain_saffron.errors import ModelLoadError, ModelNotFoundError, SettingsError
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.source import resolve_directory
from unit_tests.tiny_models import random_model, random_prm, tiny_tokenizer

# the last is an id that no hub can have, so that none is asked
NOWHERE = ["/no/such/directory", "./nowhere", "a/b/c", Path("nowhere"), "no such id!"]
LOADERS = [
    lambda source: load_tokenizer(source, "policy"),
    lambda source: load_causal_lm(source, "policy"),
    lambda source: resolve_directory(source, "policy"),
]


@pytest.mark.parametrize("load", LOADERS, ids=["tokenizer", "model", "directory"])
@pytest.mark.parametrize("source", NOWHERE, ids=str)
def test_what_is_nowhere_is_not_found(load, source):
    with pytest.raises(ModelNotFoundError, match=r"is not a directory that exists|was not found"):
        load(source)


def test_a_chat_model_says_so_at_first_use():
    chat = ChatSaffron(model="/no/such/directory", effort="off")
    with pytest.raises(core.ModelNotFoundError, match="the policy '/no/such/directory' is not a directory"):
        chat.invoke("Hello!")


def test_a_directory_without_its_files_is_damaged_and_not_missing(tmp_path):
    for load in LOADERS[:2]:
        with pytest.raises(ModelLoadError, match="cannot be loaded") as raised:
            load(tmp_path)
        assert not isinstance(raised.value, ModelNotFoundError)
    tiny_tokenizer().save_pretrained(tmp_path)
    random_model().config.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot be loaded") as raised:
        SaffronEngine.from_pretrained(tmp_path)
    assert not isinstance(raised.value, ModelNotFoundError)


@pytest.mark.parametrize("tokens", [0, -1, 1.5, "many"])
def test_a_cache_needs_room(tokens):
    with pytest.raises(SettingsError, match="max_cache_tokens"):
        SaffronEngine(random_model(), tiny_tokenizer(), max_cache_tokens=tokens)


@pytest.mark.parametrize("ids", [["a"], [None], [[1, 2]], 7])
def test_prompts_are_token_ids(ids):
    engine = SaffronEngine(random_model(), tiny_tokenizer())
    with pytest.raises(SettingsError, match="prompt_ids has to be a sequence of token ids"):
        engine.generate(ids)


def test_a_process_reward_model_has_a_vocabulary():
    prm = random_prm()
    for prompt, answer in (([10**9], [3]), ([3], [-1])):
        with pytest.raises(SettingsError, match="outside the vocabulary"):
            prm.prefix_rewards(prompt, answer)
