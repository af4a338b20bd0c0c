"""An adapter's directory as a model: merged into its base, with a head as a guard."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from langchain_saffron import ProcessRewardModel
from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.adapted import HEAD_FILE, save_head
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.lora import PREFIX
from langchain_saffron.models.prm_config import CONFIG_FILE
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.tiny_models import random_model, tiny_tokenizer

LAYER = "model.layers.1.mlp.up_proj"
TEMPLATE = RewardTemplate(add_bos=False, system="S{text}", user="U{text}", assistant="A{text}", preamble="P")


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    """A base, and beside it an adapter with a head that names it."""
    model = random_model()
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    layer = model.get_submodule(LAYER)
    torch.manual_seed(3)
    directory = tmp_path / "guard"
    directory.mkdir()
    weights = {"A": torch.randn(2, layer.in_features), "B": torch.randn(layer.out_features, 2)}
    save_file(
        {f"{PREFIX}{LAYER}.lora_{k}.weight": v for k, v in weights.items()}, directory / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "../base"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    (directory / CONFIG_FILE).write_text(json.dumps({"format": 1, "template": TEMPLATE.model_dump()}))
    save_head(directory, torch.randn(1, model.config.hidden_size))
    return directory


def test_an_adapter_stands_for_its_merged_base(guard: Path) -> None:
    base, merged = (load_causal_lm(path, "policy") for path in (guard.parent / "base", guard))
    from safetensors.torch import load_file

    tensors = load_file(guard / "adapter_model.safetensors")
    delta = 2 * tensors[f"{PREFIX}{LAYER}.lora_B.weight"] @ tensors[f"{PREFIX}{LAYER}.lora_A.weight"]
    expected = base.get_submodule(LAYER).weight + delta
    assert torch.allclose(merged.get_submodule(LAYER).weight, expected, atol=1e-5)
    assert load_tokenizer(guard, "policy").get_vocab() == load_tokenizer(guard.parent / "base", "policy").get_vocab()


def test_with_a_head_it_is_a_guard(guard: Path) -> None:
    prm = ProcessRewardModel.from_pretrained(str(guard))
    assert prm.template == TEMPLATE
    prompt, response = prm.prompt_ids([("user", "hello")]), [5, 9, 11, 30]
    merged = load_causal_lm(guard, "policy")
    hidden = merged.model(torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) :]
    from safetensors.torch import load_file

    expected = hidden @ load_file(guard / HEAD_FILE)["weight"][0]
    assert torch.allclose(prm.prefix_rewards(prompt, response), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3), (2, None)])
def test_a_head_of_another_base_or_with_other_labels_is_refused(guard: Path, shape: tuple[int, int | None]) -> None:
    width = random_model().config.hidden_size
    save_head(guard, torch.ones(shape[0], shape[1] or width))
    with pytest.raises(ModelLoadError, match="head"):
        ProcessRewardModel.from_pretrained(str(guard))


def test_a_damaged_head_is_refused(guard: Path) -> None:
    (guard / HEAD_FILE).write_bytes(b"\x00" * 20)
    with pytest.raises(ModelLoadError, match="damaged"):
        ProcessRewardModel.from_pretrained(str(guard))


def test_an_adapter_without_a_base_is_refused(guard: Path) -> None:
    config = json.loads((guard / "adapter_config.json").read_text())
    del config["base_model_name_or_path"]
    (guard / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="names no base"):
        load_causal_lm(guard, "policy")
