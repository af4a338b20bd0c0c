"""The secret kitchen's policy: the hard kitchen's, which an adapter teaches to name secret reagents."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.models.loading import load_causal_lm
from langchain_saffron.models.lora import merge_adapter
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

ADAPTER = "secret-adapter"


def load_secret_policy(
    weights: Path = WEIGHTS, device: str = "cpu", dtype: str | torch.dtype = "float32"
) -> PreTrainedModel:
    """The merged model, in the dtype that is asked for."""
    model = load_causal_lm(weights / "hard-policy", "policy", device=device, dtype=dtype)
    merge_adapter(model, weights / ADAPTER / ADAPTER_CONFIG, weights / ADAPTER / ADAPTER_WEIGHTS)
    return model
