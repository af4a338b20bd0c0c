"""Broken numbers and damaged files of reward models: each is an error that names the file, before anything answers."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from langchain_saffron import MultifurcationRewardModel
from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.end_tokens import end_token_ids
from unit_tests.models.test_mrm import base, published  # noqa: F401  fixtures
from unit_tests.tiny_models import random_model, random_reward_model, tiny_tokenizer

NAN, INF = math.nan, math.inf


@pytest.fixture
def ours(tmp_path):
    """An MRM directory of ours with merged weights."""
    directory = tmp_path / "ours"
    random_reward_model().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30])
@pytest.mark.parametrize("where", [slice(None), slice(20, 21)])
def test_a_bias_that_is_no_reward_is_refused(ours, value, where):
    tensors = load_file(ours / "mrm.safetensors")
    tensors["bias"][where] = value
    save_file(tensors, ours / "mrm.safetensors")
    with pytest.raises(ModelLoadError, match="bias holds NaN, infinity or numbers beyond"):
        MultifurcationRewardModel.from_pretrained(ours)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"safety_threshold": NAN}, "safety_threshold is nan"),
        ({"safety_threshold": -INF}, "safety_threshold is -inf"),
        ({"safety_threshold": "2.0"}, "safety_threshold is '2.0'"),
        ({"safety_threshold": True}, "safety_threshold is True"),
        ({"template": {"add_bos": True}}, "template: system: Field required"),
        ({"template": "x"}, "template is a str"),
        ({"format": 99}, "not of format 1"),
    ],
)
def test_a_config_that_is_none_is_refused(ours, changes, says):
    path = ours / "mrm_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelLoadError, match=says):
        MultifurcationRewardModel.from_pretrained(ours)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"r": None}, "r is None"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4'"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": INF}, "lora_alpha is inf"),
        ({"base_model_name_or_path": 5}, "names 5 as its base"),
        ({"base_model_name_or_path": "a\0b"}, "no name of one"),
        ([], "holds a list"),
        ("{", "is damaged"),
    ],
)
def test_an_adapter_s_config_that_is_none_is_refused(published, base, changes, says):  # noqa: F811
    path = published / "adapter_config.json"
    if isinstance(changes, dict):
        text = json.dumps({**json.loads(path.read_text()), **changes})
    else:
        text = changes if isinstance(changes, str) else json.dumps(changes)
    path.write_text(text)
    names_base = isinstance(changes, dict) and "base_model_name_or_path" in changes
    with pytest.raises(ModelLoadError, match=says):
        MultifurcationRewardModel.from_pretrained(published, base=None if names_base else base)


@pytest.mark.parametrize("how", ["nan", "rank", "none"])
def test_an_adapter_s_weights_that_are_none_are_refused(published, base, how):  # noqa: F811
    path = published / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_A" in name)
    if how == "nan":
        weights[name] = weights[name] * NAN
    elif how == "rank":
        weights[name] = torch.zeros(7, weights[name].shape[1])
    else:
        weights = {}
    save_file(weights, path)
    with pytest.raises(ModelLoadError, match="do not fit each other" if how == "rank" else "is damaged"):
        MultifurcationRewardModel.from_pretrained(published, base=base)


def test_a_mask_of_complex_numbers_is_refused(published, base):  # noqa: F811
    torch.save(torch.zeros(300, dtype=torch.complex64), published / "unseen_mask.pt")
    with pytest.raises(ModelLoadError, match="real numbers"):
        MultifurcationRewardModel.from_pretrained(published, base=base)


@pytest.mark.parametrize("named", ["x", ["x"], [1, None]])
def test_end_tokens_are_ids(named):
    model = random_model("llama")
    model.generation_config.eos_token_id = named
    with pytest.raises(ModelLoadError, match="eos_token_id is"):
        end_token_ids(model, tiny_tokenizer())
