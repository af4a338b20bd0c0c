"""A guard, of whatever kind, as the process reward model that annotates for a policy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from langchain_saffron.embedded import named_part
from langchain_saffron.models.classifier_kind import is_encoder
from langchain_saffron.models.encoder_guard import EncoderGuard
from langchain_saffron.models.endpoint_guard import EndpointGuard
from langchain_saffron.models.guard_function import function_name
from langchain_saffron.models.guard_retries import Retries
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.templates.guard_prompt import GuardPrompt

# a hub id, a directory, a GGUF file, the URL of an endpoint, a loaded model, or a function
Guard = str | Path | torch.nn.Module | Callable[..., Any]


def load_guard(
    guard: Guard | ProcessRewardModel,
    tokenizer: Any,
    *,
    prompt: str | GuardPrompt | None = None,
    safe: str | int | None = None,
    unsafe: str | int | None = None,
    guard_model: str | None = None,
    retries: Retries | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    **load: Any,
) -> ProcessRewardModel:
    """Load a guard.

    Args:
        guard: A causal LM that is asked, or a classifier, by hub id, directory or GGUF file, or loaded; an encoder that
            classifies; a function of (prompt, answer) or a `conversation_guard`; the URL of an OpenAI-compatible
            endpoint. A `ProcessRewardModel` is taken as it is.
        tokenizer: The policy's, for what scores texts.
        prompt: How a causal LM is asked: a preset's name or a `GuardPrompt`.
        safe: The token or label that means safe, in place of the usual one.
        unsafe: The one that means unsafe.
        guard_model: The model that an endpoint is asked for.
        retries: What is done when an endpoint or a function fails.
        device: Where a model runs.
        dtype: Of its weights.
        **load: Further options of the loading.

    Raises:
        ModelLoadError: It cannot be loaded.
        SettingsError: How it is asked is not known.
    """
    if isinstance(guard, ProcessRewardModel):
        return guard
    retries = retries or Retries()
    if isinstance(guard, str) and guard.startswith(("http://", "https://")):
        asked = EndpointGuard(guard, guard_model, safe=str(safe or "safe"), unsafe=str(unsafe or "unsafe"))
        return ProcessRewardModel.from_function(asked, tokenizer, asked.name, retries)
    if callable(guard) and not isinstance(guard, torch.nn.Module):
        return ProcessRewardModel.from_function(guard, tokenizer, function_name(guard), retries)
    model = named_part(guard, "process_reward_model")
    if is_encoder(model, load):
        encoder = EncoderGuard(str(model), safe=safe, unsafe=unsafe, device=device, dtype=dtype, **load)
        return ProcessRewardModel.from_function(encoder, tokenizer, str(model), retries)
    return ProcessRewardModel.from_pretrained(model, prompt, device, dtype, safe=safe, unsafe=unsafe, **load)
