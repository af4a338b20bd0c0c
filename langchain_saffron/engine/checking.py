"""What can be wrong with the models of an engine, as far as it shows before any weights are read."""

from pathlib import Path
from typing import Any

import torch

from langchain_saffron.embedded import find_world
from langchain_saffron.models.loading import load_tokenizer
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.reward_head import RewardHead, is_head
from langchain_saffron.models.source import ModelSource
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.runtime.devices import check_device, torch_dtype


def check_models(
    model: ModelSource | None,
    reward_model: str | Path | MultifurcationRewardModel | RewardHead | None,
    reward_base: ModelSource | None,
    *,
    device: str,
    dtype: str | torch.dtype,
    device_map: Any = None,
    tokenizer: Any = None,
    **common: Any,
) -> None:
    """See whether models could be loaded, for who has other processes load them; the arguments are `load_models`'.

    It takes files of the hub that are not here yet, but for a policy's weights.

    Raises:
        ModelLoadError: A device or dtype is none, or a model is nowhere, or a part of it but its weights is damaged.
        VocabularyMismatchError: Policy and reward model have other tokens.
    """
    if device_map is None:
        check_device(device)
    torch_dtype(dtype)
    world = find_world(model)
    if world is not None:
        model = world.policy
        reward_model = world.reward_model if reward_model is None else reward_model
    assert model is not None
    token, trusted = common.get("hf_token"), common.get("trust_remote_code", False)
    if tokenizer is None or isinstance(tokenizer, str | Path):
        revision = common.get("revision") if tokenizer is None else None
        tokenizer = load_tokenizer(model if tokenizer is None else tokenizer, "policy", revision, token, trusted)
    if isinstance(reward_model, str | Path) and not is_head(reward_model, token):
        found = MultifurcationRewardModel.tokenizer_of(reward_model, reward_base, **common)
        check_vocabularies(tokenizer, found)
