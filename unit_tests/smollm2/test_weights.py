"""The shipped parts of the small real world, as far as they can be judged without the base."""

import json

import torch
from safetensors.torch import load_file

from langchain_saffron.models.adapted import HEAD_FILE, has_head
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, named_base, read_config, read_tensors
from langchain_saffron.smollm2 import HUB_ID
from langchain_saffron.smollm2.build import WEIGHTS
from langchain_saffron.smollm2.recipe.card import card


def test_the_manifest_and_the_card_are_those_of_the_files():
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    sizes = {str(file.relative_to(WEIGHTS)): file.stat().st_size for file in WEIGHTS.rglob("*.safetensors")}
    assert manifest["bytes"] == sizes
    assert sum(sizes.values()) <= 12_000_000
    assert (WEIGHTS / "README.md").read_text() == card(manifest)


def test_the_parts_name_bases_that_are_found_everywhere():
    for part in ("policy", "guard"):
        assert named_base(WEIGHTS / part, {}) == HUB_ID
    assert json.loads((WEIGHTS / "mrm" / ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == "../guard"
    assert named_base(WEIGHTS / "mrm", read_config(WEIGHTS / "mrm")) == str(WEIGHTS / "guard")


def test_all_numbers_are_finite():
    for file in WEIGHTS.rglob("*.safetensors"):
        assert all(bool(tensor.float().isfinite().all()) for tensor in load_file(file).values())
    bias, seen = read_tensors(WEIGHTS / "mrm")
    assert len(bias) == len(seen) == 49_152
    assert has_head(WEIGHTS / "guard")
    assert load_file(WEIGHTS / "guard" / HEAD_FILE)["weight"].abs().max() > torch.tensor(0.01)
