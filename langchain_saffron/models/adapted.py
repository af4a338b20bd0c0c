"""A model that is an adapter on a base: a directory with peft's two files, and no weights of its own.

A guard of this form has a classification head besides: in `head.safetensors`, or, as TRL and peft save reward models,
among the adapter's weights.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.lora import is_head, read_adapter_config
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, named_base
from langchain_saffron.models.smollm2_base import HUB_ID, find_base
from langchain_saffron.runtime.files import local_path

HEAD_FILE = "head.safetensors"
# which a config without labels would have: one output, the reward
_LABELS = {0: "safe"}
# peft's name of the task
_CLASSIFIER = "SEQ_CLS"


def adapter_directory(source: Any) -> Path | None:
    """The directory, where `source` is that of an adapter; `None` for any other model."""
    if isinstance(source, torch.nn.Module):
        return None
    directory = local_path(source)
    holds = (directory / ADAPTER_CONFIG).is_file() and not (directory / "config.json").exists()
    return directory if holds else None


def adapter_base(directory: Path) -> str:
    """The base that an adapter names: a hub id, or a directory, which may lie beside it.

    SmolLM2's, which the embedded adapters name, is found offline too (`models.smollm2_base`).

    Raises:
        ModelLoadError: It names none.
        ModelNotFoundError: It names SmolLM2, whose weights are nowhere.
    """
    return offline_base(named_base(directory, {}))


def offline_base(name: str) -> str:
    """A base by its name, or where it lies: SmolLM2's, which the embedded adapters name, needs no network.

    Raises:
        ModelNotFoundError: It is SmolLM2's, and nowhere.
    """
    return str(find_base()) if name == HUB_ID else name


def has_head(source: Any) -> bool:
    """Whether `source` is the directory of an adapter with a classification head."""
    directory = adapter_directory(source)
    if directory is None or (directory / HEAD_FILE).is_file():
        return directory is not None
    return read_adapter_config(directory / ADAPTER_CONFIG).get("task_type") == _CLASSIFIER


def attach_head(model: Any, directory: Path) -> None:
    """Give a causal LM the head of a directory, as its `score`, with the labels that the adapter's config names.

    Raises:
        ModelLoadError: The head is damaged, or belongs to another base.
    """
    path = directory / HEAD_FILE
    try:
        if path.is_file():
            tensors = load_file(path)
        else:
            path = directory / ADAPTER_WEIGHTS
            # "…score.weight", or "…score.modules_to_save.default.weight"
            tensors = {key.rpartition(".")[2]: one for key, one in load_file(path).items() if is_head(key)}
        weight, bias = tensors["weight"].float(), tensors.get("bias")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelLoadError(f"{path} is damaged: {error}") from error
    embeddings = model.get_input_embeddings().weight
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    if weight.ndim != 2 or weight.shape[1] != embeddings.shape[1] or not finite:
        raise ModelLoadError(
            f"{path} holds a head of shape {tuple(weight.shape)} for a base of width {embeddings.shape[1]}, or NaN: it "
            "is damaged, or belongs to another base"
        )
    labels = read_adapter_config(directory / ADAPTER_CONFIG).get("id2label") or _LABELS
    if path.name == ADAPTER_WEIGHTS and len(labels) != len(weight):
        # peft does not say what they are called
        labels = {index: f"LABEL_{index}" for index in range(len(weight))}
    if len(labels) != len(weight):
        raise ModelLoadError(f"{path} has {len(weight)} outputs, but {ADAPTER_CONFIG} names {len(labels)} labels")
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    head.load_state_dict(tensors)
    model.score = head.to(embeddings.device, embeddings.dtype).requires_grad_(False)
    model.config.id2label = {int(index): str(label) for index, label in labels.items()}


def save_head(directory: Path, weight: torch.Tensor) -> None:
    """Write a head, float32 tensor [labels, width]."""
    save_file({"weight": weight.detach().float().contiguous()}, directory / HEAD_FILE)
    (directory / HEAD_FILE).chmod(0o644)  # safetensors makes private files
