"""From what a user asks for to what the models allow: checked before any forward."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from langchain_saffron.engine.prm_cache import Judge
from langchain_saffron.errors import ContextOverflowError, RewardModelRequiredError, SettingsError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.search import (
    Search,
    SearchInputs,
    best_of_n_search,
    deal_search,
    plain_search,
    rebase_search,
    saffron_search,
)
from langchain_saffron.settings import DEFAULT_SAFETY_THRESHOLD, SearchSettings

DEFAULT_MAX_TOKENS = 512
SEARCHES: dict[str, Callable[[SearchInputs], Search]] = {
    "saffron": saffron_search,
    "greedy": plain_search,
    "sample": plain_search,
    "best_of_n": best_of_n_search,
    "rebase": rebase_search,
    "deal": deal_search,
}
# parts of a generation config that plain decoding here does not apply
IGNORED_PROCESSORS = (
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "sequence_bias",
    "guidance_scale",
)


def resolve_settings(
    settings: SearchSettings,
    policy: TrieDecoder,
    reward_model: MultifurcationRewardModel | None,
    judge: Judge | None,
    generation_config: Any,
    prompt_length: int,
    reward_length: int,
    judge_length: int,
) -> SearchSettings:
    """Fill in what the models decide: `max_tokens` and `safety_threshold`.

    Raises:
        RewardModelRequiredError: The search needs a reward model that is not there.
        SettingsError: The settings contradict each other.
        ContextOverflowError: The prompt leaves no room for an answer.
    """
    search = settings.search
    if settings.needs_reward_model and reward_model is None:
        raise RewardModelRequiredError(
            f"search={search!r} needs a reward model: pass reward_model=, or use search='greedy'"
        )
    if settings.needs_process_reward_model and judge is None:
        raise RewardModelRequiredError(
            f"search={search!r} asks a process reward model: pass process_reward_model=, or use search='saffron'"
        )
    if settings.refusal_threshold is not None and not settings.needs_reward_model:
        raise SettingsError(f"refusal_threshold has no effect on search={search!r}: use search='saffron'")
    rooms = [("policy", policy, prompt_length)]
    if settings.needs_reward_model and reward_model is not None:
        rooms.append(("reward model", reward_model.decoder, reward_length))
    if settings.needs_process_reward_model and judge is not None:
        rooms.append(("process reward model", judge.decoder, judge_length + len(judge.suffix)))
    for name, decoder, length in rooms:
        if length >= decoder.context:
            raise ContextOverflowError(
                f"the prompt has {length} tokens, but the {name}'s context has {decoder.context} with the answer "
                "included: shorten the messages"
            )
    room = min(decoder.context - length for _, decoder, length in rooms)
    wanted = settings.max_tokens or getattr(generation_config, "max_new_tokens", None) or DEFAULT_MAX_TOKENS
    threshold = settings.safety_threshold
    if threshold is None and reward_model is not None:
        threshold = reward_model.safety_threshold
    if threshold is None:
        threshold = DEFAULT_SAFETY_THRESHOLD
    return settings.model_copy(update={"max_tokens": min(wanted, room), "safety_threshold": threshold})


def checked_ids(ids: Sequence[int], decoder: TrieDecoder, name: str) -> tuple[int, ...]:
    """Prompt ids as plain integers.

    Raises:
        SettingsError: There are none, or some lie outside the model's vocabulary.
    """
    checked = tuple(int(i) for i in ids)
    if not checked:
        raise SettingsError(f"{name} is empty: a prompt needs at least one token")
    if min(checked) < 0 or max(checked) >= decoder.vocabulary:
        raise SettingsError(f"{name} holds ids outside the {decoder.name}'s vocabulary of {decoder.vocabulary}")
    return checked


def warn_of_processors(generation_config: Any) -> None:
    """Name the parts of a policy's generation config that plain decoding here leaves out."""
    odd = [name for name in IGNORED_PROCESSORS if getattr(generation_config, name, None)]
    if odd:
        warnings.warn(
            f"the policy's generation config sets {', '.join(odd)}, which plain decoding here does not apply",
            stacklevel=4,
        )
