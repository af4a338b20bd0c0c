"""The files of an MRM directory: ours, and the published layout."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.lora import read_adapter_config
from langchain_saffron.models.vocabulary import vocabulary_hash
from langchain_saffron.runtime.files import read_json
from langchain_saffron.templates.reward_template import RewardTemplate

FORMAT = 1
CONFIG_FILE = "mrm_config.json"
TENSOR_FILE = "mrm.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def write_mrm_files(
    directory: Path,
    bias: torch.Tensor,
    seen: torch.Tensor,
    tokenizer: Any,
    template: RewardTemplate,
    safety_threshold: float | None,
    base_model: str | None,
    details: dict[str, Any],
) -> None:
    """Write what goes beside the weights: `mrm.safetensors` and, last, `mrm_config.json`.

    Args:
        directory: Where the weights or the adapter are.
        bias: float32 tensor [vocabulary].
        seen: bool tensor [vocabulary].
        tokenizer: The base's.
        template: How a conversation is written.
        safety_threshold: The calibrated one, if there is one.
        base_model: The base's hub id, or its path relative to `directory`.
        details: Further entries of the config.
    """
    save_file({"bias": bias.cpu().contiguous(), "seen": seen.cpu().contiguous()}, directory / TENSOR_FILE)
    # safetensors makes private files; a model directory is there to be shared
    (directory / TENSOR_FILE).chmod(0o644)
    config = {
        **details,
        "format": FORMAT,
        "base_model": base_model,
        "template": template.model_dump(),
        "vocabulary_hash": vocabulary_hash(tokenizer),
        "safety_threshold": safety_threshold,
    }
    write_config(directory, config)


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write `mrm_config.json`, which comes last: a directory without it is no MRM."""
    text = json.dumps({**config, "format": FORMAT}, indent=2, ensure_ascii=False)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def read_config(directory: Path) -> dict[str, Any]:
    """`mrm_config.json`; empty where there is none, as in the published layout.

    Raises:
        ModelLoadError: It is damaged or of another format.
    """
    return read_json(directory / CONFIG_FILE, FORMAT, ModelLoadError) or {}


def named_base(directory: Path, config: dict[str, Any]) -> str:
    """The base model that a directory names.

    Raises:
        ModelLoadError: It names none.
    """
    name = config.get("base_model")
    if name is None and (directory / ADAPTER_CONFIG).exists():
        name = read_adapter_config(directory / ADAPTER_CONFIG).get("base_model_name_or_path")
    if name is not None and (not isinstance(name, str) or "\0" in name):
        raise ModelLoadError(f"{directory} names {name!r} as its base model, which is no name of one")
    if not name:
        raise ModelLoadError(f"{directory} names no base model: pass it as base= (reward_base= in ChatSaffron)")
    beside = directory / name
    return str(beside.resolve()) if beside.exists() else str(name)


def read_tensors(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The bias and the mask of seen tokens, from either layout.

    Raises:
        ModelLoadError: They are missing or damaged.
    """
    ours = directory / TENSOR_FILE
    if ours.exists():
        try:
            tensors = load_file(ours)
            return tensors["bias"], tensors["seen"].bool()
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelLoadError(f"{ours} is damaged or incomplete ({error}): write the MRM again") from error
    return _read_pickled(directory / "lm_head_bias.pt").float(), ~_read_pickled(directory / "unseen_mask.pt").bool()


def _read_pickled(path: Path) -> torch.Tensor:
    """A tensor of the published layout, read without running any code that the file may hold."""
    if not path.exists():
        raise ModelLoadError(f"{path.parent} is no MRM directory: neither {TENSOR_FILE} nor {path.name} is there")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelLoadError(f"{path} is damaged, or holds more than a plain tensor: {error}") from error
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, torch.Tensor) or value.is_complex():
        raise ModelLoadError(f"{path} holds a {type(value).__name__} where a tensor of real numbers was expected")
    return value.detach().flatten()
