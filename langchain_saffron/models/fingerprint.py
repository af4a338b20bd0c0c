"""Short, stable names of loaded models, so that caches can tell them apart."""

import hashlib
import json
from typing import Any

import torch

from langchain_saffron.models.mrm import MultifurcationRewardModel

_SAMPLES = 64


def fingerprint(value: Any) -> str:
    """The type of `value` and a hash of what it computes with.

    Weights are sampled (up to 64 numbers a tensor), so that a large model takes milliseconds.
    """
    return f"{type(value).__name__}:{_digest(value)[:16]}"


def _digest(value: Any) -> str:
    if hasattr(value, "fingerprint_parts"):
        parts = [_digest(part) if part is not None else "" for part in value.fingerprint_parts()]
    elif isinstance(value, MultifurcationRewardModel):
        tensors = _sample(value.bias) + _sample(value.seen)
        parts = [_digest(value.decoder.model), str(tensors), value.template.model_dump_json()]
        parts += [str(value.safety_threshold), value.mask]
    elif isinstance(value, torch.nn.Module):
        config = getattr(value, "config", None)
        parts = [config.to_json_string() if config is not None else ""]
        parts += [f"{name}{tuple(p.shape)}{_sample(p)}" for name, p in value.named_parameters()]
    elif hasattr(value, "get_vocab"):
        parts = [json.dumps(sorted(value.get_vocab().items())), str(value.chat_template)]
    elif hasattr(value, "to_dict"):
        parts = [json.dumps(value.to_dict(), sort_keys=True, default=str)]
    else:
        parts = [repr(value)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _sample(tensor: torch.Tensor) -> list[float]:
    flat = (tensor.to_dense() if tensor.is_mkldnn else tensor).detach().reshape(-1)
    picked = flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]
    values: list[float] = picked.float().cpu().tolist()
    return values
