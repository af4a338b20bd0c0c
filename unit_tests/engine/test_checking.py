"""What is wrong with models shows before weights are read, and nothing else is called wrong."""

import shutil
from pathlib import Path

import pytest

from langchain_saffron import ChatSaffron
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.errors import ModelLoadError, ModelNotFoundError


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"device": "oven"}, ModelLoadError, "device: 'oven' cannot be used"),
        ({"device": "cuda:99"}, ModelLoadError, "device: 'cuda:99' is not there"),
        ({"device": "mps:7"}, ModelLoadError, "device: 'mps:7' cannot be used"),
        ({"dtype": "float3"}, ModelLoadError, "dtype: 'float3'"),
        ({"model": "/nowhere", "effort": "off"}, ModelNotFoundError, "policy '/nowhere'"),
        ({"reward_model": "/nowhere"}, ModelNotFoundError, "reward model '/nowhere'"),
        ({"reward_base": "/nowhere"}, ModelNotFoundError, "reward model's base '/nowhere'"),
    ],
)
def test_what_cannot_be_loaded_is_told(given, error, told):
    with pytest.raises(error, match=told):
        ChatSaffron(**{"model": "kitchen", **given}).check_models()


def copied(tmp_path: Path, left_out: str) -> Path:
    """The kitchen's models, but for some files."""
    shutil.copytree(KITCHEN, tmp_path / "kitchen", ignore=shutil.ignore_patterns(left_out))
    return tmp_path / "kitchen"


def test_no_weights_are_read(tmp_path):
    kitchen = copied(tmp_path, "model*.safetensors")
    chat = ChatSaffron(model=str(kitchen / "policy"), reward_model=str(kitchen / "mrm"), device="cpu")
    chat.check_models()
    with pytest.raises(ModelLoadError):
        chat.load()


@pytest.mark.parametrize("left_out", ["mrm.safetensors", "tokenizer.json"])
def test_other_files_are(tmp_path, left_out):
    kitchen = copied(tmp_path, left_out)
    with pytest.raises(ModelLoadError):
        ChatSaffron(model=str(kitchen / "policy"), reward_model=str(kitchen / "mrm"), device="cpu").check_models()
