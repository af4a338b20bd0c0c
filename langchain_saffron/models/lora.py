"""Merging a LoRA adapter into its base: `W ← W + (alpha / r) · B A`, without needing peft."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from langchain_saffron.errors import ModelLoadError

PREFIX = "base_model.model."
# parts of the adapter format that would silently change the result if they were ignored
UNSUPPORTED = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication")


@torch.no_grad()
def merge_adapter(model: torch.nn.Module, config_file: Path, weights_file: Path) -> None:
    """Merge the adapter into `model`, in place.

    Args:
        model: The base that the adapter was trained on.
        config_file: peft's `adapter_config.json`.
        weights_file: peft's `adapter_model.safetensors`.

    Raises:
        ModelLoadError: A file is missing or damaged, the adapter is of a kind that cannot be merged here,
            or it does not fit the base.
    """
    config, weights = _read(config_file, weights_file)
    weights = {key: tensor for key, tensor in weights.items() if not is_head(key)}
    modules = dict(model.named_modules())
    rank = config["r"]
    scaling = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in weights.items():
        path, _, rest = key.removeprefix(PREFIX).partition(".lora_")
        if rest.split(".")[0] not in ("A", "B"):
            raise ModelLoadError(f"{weights_file}: {key} is no LoRA weight; only plain LoRA can be merged")
        pairs.setdefault(path, {})[rest[0]] = tensor
    for path, pair in pairs.items():
        module = modules.get(path)
        if not isinstance(module, torch.nn.Linear | Conv1D) or set(pair) != {"A", "B"}:
            raise ModelLoadError(
                f"{weights_file} adapts {path!r}, which the base ({type(model).__name__}) does not have as a plain "
                "linear layer: the adapter belongs to another base, or the base is quantized"
            )
        if pair["A"].ndim != 2 or pair["B"].ndim != 2 or len(pair["A"]) != pair["B"].shape[1]:
            raise ModelLoadError(
                f"{weights_file}: the two weights for {path!r} do not fit each other: {tuple(pair['A'].shape)} and "
                f"{tuple(pair['B'].shape)}"
            )
        delta = (pair["B"].float() @ pair["A"].float()) * scaling
        delta = delta.T if isinstance(module, Conv1D) else delta
        if delta.shape != module.weight.shape:
            raise ModelLoadError(
                f"{weights_file} adapts {path!r} with shape {tuple(delta.shape)}, but the base has "
                f"{tuple(module.weight.shape)}: the adapter belongs to another base"
            )
        merged = module.weight.float() + delta.to(module.weight.device)
        module.weight.copy_(merged.to(module.weight.dtype))


def is_head(key: str) -> bool:
    """Whether a weight is that of a classification head, which peft saves whole beside the adapter."""
    return key.removeprefix(PREFIX).split(".")[0] == "score"


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Peft's `adapter_config.json`.

    Raises:
        ModelLoadError: It is no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{path} is damaged: it holds a {type(config).__name__}, not an object")
    return config


def _read(config_file: Path, weights_file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    for path in (config_file, weights_file):
        if not path.exists():
            raise ModelLoadError(f"{path} is missing")
    config = read_adapter_config(config_file)
    try:
        weights = load_file(weights_file)
    except (ValueError, SafetensorError) as error:
        raise ModelLoadError(f"{weights_file} is damaged: {error}") from error
    if not weights or not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise ModelLoadError(f"{weights_file} is damaged: it holds no weights, or NaN or infinity")
    heads = config.get("task_type") == "SEQ_CLS" and set(config.get("modules_to_save") or ()) <= {"score", "classifier"}
    odd = [key for key in UNSUPPORTED if config.get(key) and not (key == "modules_to_save" and heads)]
    if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
        raise ModelLoadError(
            f"{config_file}: only plain LoRA adapters can be merged (found {config.get('peft_type')}"
            f"{' with ' + ', '.join(odd) if odd else ''}): merge it with peft and save the merged model"
        )
    for name in ("r", "lora_alpha"):
        value = config.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            raise ModelLoadError(f"{config_file}: {name} is {value!r}, and has to be a positive number")
    return config, weights
