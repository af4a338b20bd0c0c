"""The models of an engine, loaded in the order in which mistakes are cheapest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from langchain_saffron.embedded import find_world
from langchain_saffron.models.guard_function import function_name
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.quantization import check_quantization
from langchain_saffron.models.reward_head import RewardHead, is_head
from langchain_saffron.models.source import ModelSource
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.models.wrapped import is_pipeline
from langchain_saffron.settings import Quantization


def load_models(
    model: ModelSource | None,
    reward_model: str | Path | MultifurcationRewardModel | RewardHead | None,
    reward_base: ModelSource | None,
    process_reward_model: ModelSource | ProcessRewardModel | Callable[..., Any] | None,
    *,
    device: str,
    dtype: str | torch.dtype,
    tokenizer: Any,
    quantization: Quantization | None,
    quantization_config: Any,
    revision: str | None,
    max_cache_tokens: int,
    **common: Any,
) -> dict[str, Any]:
    """Load what `SaffronEngine` takes; the arguments are those of its `from_pretrained`.

    Returns:
        The arguments of the engine's constructor.

    Raises:
        ModelLoadError: Something cannot be found, is damaged, or does not fit.
        SettingsError: A quantization that does not go with the rest.
    """
    check_quantization(quantization, device, dtype, common.get("device_map"), quantization_config)
    world = find_world(model)
    if world is not None:
        model = world.policy
        reward_model = world.reward_model if reward_model is None else reward_model
    assert model is not None
    if is_pipeline(model):
        pipeline: Any = model
        model, tokenizer = pipeline.model, pipeline.tokenizer if tokenizer is None else tokenizer
    if tokenizer is None or isinstance(tokenizer, str | Path):
        # the revision is the policy's
        source, of = (model, revision) if tokenizer is None else (tokenizer, None)
        tokenizer = load_tokenizer(source, "policy", of, common.get("hf_token"), common.get("trust_remote_code", False))
    # the reward models first: they are the smaller ones, and a mistake in them should not cost the policy's load
    where: dict[str, Any] = {"device": device, "max_cache_tokens": max_cache_tokens, **common}
    if isinstance(reward_model, str | Path) and is_head(reward_model, common.get("hf_token")):
        reward_model = RewardHead.from_pretrained(reward_model, hf_token=common.get("hf_token"))
    elif reward_model is not None and not isinstance(reward_model, MultifurcationRewardModel | RewardHead):
        reward_model = MultifurcationRewardModel.from_pretrained(
            reward_model, reward_base, dtype=str(dtype), quantization=quantization, **where
        )
    if isinstance(reward_model, MultifurcationRewardModel):
        check_vocabularies(tokenizer, reward_model.tokenizer)
    prm = None if process_reward_model is None else _prm(process_reward_model, tokenizer, dtype, where)
    policy = load_causal_lm(
        model,
        "policy",
        device=device,
        dtype=dtype,
        quantization_config=quantization_config,
        revision=revision,
        **common,
    )
    return {
        "model": policy,
        "tokenizer": tokenizer,
        "reward_model": reward_model,
        "max_cache_tokens": max_cache_tokens,
        "name": world.name if world else "",
        "attn_implementation": common.get("attn_implementation"),
        "owned": not isinstance(model, torch.nn.Module),
        "process_reward_model": prm,
        "quantization": quantization,
    }


def _prm(
    given: ModelSource | ProcessRewardModel | Callable[..., Any],
    tokenizer: Any,
    dtype: str | torch.dtype,
    where: dict[str, Any],
) -> ProcessRewardModel:
    """The process reward model, which shares the policy's tokenizer."""
    if is_pipeline(given):
        scorer: Any = given
        given = ProcessRewardModel.from_pretrained(scorer.model, tokenizer=scorer.tokenizer, **where)
    elif callable(given) and not isinstance(given, torch.nn.Module):
        given = ProcessRewardModel.from_function(given, tokenizer, function_name(given))
    elif not isinstance(given, ProcessRewardModel):
        given = ProcessRewardModel.from_pretrained(given, dtype=dtype, **where)
    check_vocabularies(tokenizer, given.tokenizer)
    return given
