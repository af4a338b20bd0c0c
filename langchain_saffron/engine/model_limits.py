"""What the models that answer a request allow, need and cost."""

from functools import cached_property
from typing import Any, Literal, NamedTuple

from langchain_saffron.engine.prm_cache import PrmScorer
from langchain_saffron.engine.prm_function import FunctionScorer
from langchain_saffron.errors import CacheFullError, ContextOverflowError, RewardModelRequiredError, SettingsError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.reward_head import RewardHead
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.settings import DEFAULT_REWARD_ERROR, DEFAULT_SAFETY_THRESHOLD, SearchSettings

DEFAULT_MAX_TOKENS = 512


class Lengths(NamedTuple):
    """Tokens of one prompt as each model reads it.

    Attributes:
        policy: The policy's.
        reward: The reward model's.
        prm: The process reward model's.
    """

    policy: int
    reward: int
    prm: int


class ModelLimits:
    """Fills in what the models decide of a request's settings, and says what its steps cost."""

    def __init__(
        self,
        policy: TrieDecoder,
        reward_model: MultifurcationRewardModel | RewardHead | None,
        prm: PrmScorer | FunctionScorer | None,
        generation_config: Any,
    ) -> None:
        """Take the models.

        Args:
            policy: The policy over its cache.
            reward_model: The MRM, if there is one.
            prm: The process reward model, if there is one.
            generation_config: The policy's, for `max_new_tokens`.
        """
        self._policy = policy
        self._reward_model = reward_model
        self._prm = prm
        self._generation_config = generation_config

    @property
    def reward_error(self) -> float:
        """Points of reward by which the reward model is usually wrong."""
        error = None if self._reward_model is None else self._reward_model.error
        return DEFAULT_REWARD_ERROR if error is None else error

    @cached_property
    def _mask(self) -> Literal["strict", "soft"]:
        # counted once: on a device, asking how many tokens were seen waits for all that is being computed
        return "strict" if self._reward_model is None else self._reward_model.mask

    def resolve(self, settings: SearchSettings, lengths: Lengths) -> SearchSettings:
        """Fill in what the models decide: `max_tokens`, `safety_threshold` and `mask`.

        Args:
            settings: What the user set.
            lengths: Of the prompts.

        Raises:
            RewardModelRequiredError: The search needs a reward model that is not there.
            SettingsError: The settings contradict each other.
            ContextOverflowError: The prompt leaves no room for an answer.
        """
        self._check_searchable(settings)
        room = self._room(settings, lengths)
        configured = getattr(self._generation_config, "max_new_tokens", None)
        max_tokens = settings.max_tokens or configured or DEFAULT_MAX_TOKENS
        reward_model = self._reward_model
        threshold = settings.safety_threshold
        if threshold is None and reward_model is not None:
            threshold = reward_model.safety_threshold
        if threshold is None:
            threshold = DEFAULT_SAFETY_THRESHOLD
        mask = settings.mask
        if mask == "auto":
            mask = self._mask
        filled = {"max_tokens": min(max_tokens, room), "safety_threshold": threshold, "mask": mask}
        return settings.model_copy(update=filled)

    def meter(self, settings: SearchSettings, lengths: Lengths) -> BudgetMeter:
        """What a request may spend, and what its steps cost in these models.

        Args:
            settings: As `resolve` gives them.
            lengths: Of the prompts.
        """
        policy, prm = self._policy, self._prm if settings.needs_process_reward_model else None
        reward = self._reward_model.decoder if settings.needs_reward_model and self._reward_model else None
        unembedding = reward.unembedding if reward else None
        later = unembedding.product * unembedding.outputs / 1e12 if unembedding else 0.0

        def row_cost(length: int) -> float:
            cost = policy.row_cost(lengths.policy - 1 + length)
            return cost + reward.row_cost(lengths.reward - 1 + length) if reward else cost

        def prompt_cost() -> float:
            cost = policy.prompt_cost(lengths.policy)
            cost += reward.prompt_cost(lengths.reward) if reward else 0.0
            return cost + (prm.prompt_cost(lengths.prm) if prm else 0.0)

        return BudgetMeter(
            settings.budget,
            row_cost=row_cost,
            later_cost=later,
            calls_per_row=1 if settings.needs_reward_model else 0,
            prm_cost=(lambda length: prm.call_cost(lengths.prm + length)) if prm else None,
            prm_row_cost=(lambda length: prm.row_cost(lengths.prm + length)) if prm else None,
            prm_each_row=settings.verify is None,
            prompt_cost=prompt_cost,
            least_width=settings.width_floor or 1,
        )

    def _check_searchable(self, settings: SearchSettings) -> None:
        """Refuse a search whose reward model is not there.

        Raises:
            RewardModelRequiredError: It is not.
            SettingsError: A setting is for a search with a reward model, and this one has none.
        """
        search = settings.search
        if settings.needs_reward_model and self._reward_model is None:
            raise RewardModelRequiredError(
                f"search={search!r} needs a reward model: pass reward_model=, or use search='greedy'"
            )
        if settings.needs_process_reward_model and self._prm is None:
            asks, instead = f"search={search!r}", "use search='saffron'"
            if settings.verify is not None:
                asks, instead = f"verify={settings.verify!r}", "leave verify= out"
            raise RewardModelRequiredError(
                f"{asks} asks a process reward model: pass process_reward_model=, or {instead}"
            )
        if settings.refusal_threshold is not None and not settings.needs_reward_model:
            raise SettingsError(f"refusal_threshold has no effect on search={search!r}: use search='saffron'")

    def _room(self, settings: SearchSettings, lengths: Lengths) -> int:
        """How many tokens an answer may have in all models that take part.

        Raises:
            CacheFullError: The prompt leaves no room in a KV cache.
            ContextOverflowError: It leaves none in a context.
        """
        rooms = [("policy", self._policy, lengths.policy)]
        if settings.needs_reward_model and self._reward_model is not None:
            rooms.append(("reward model", self._reward_model.decoder, lengths.reward))
        if settings.needs_process_reward_model and self._prm is not None and self._prm.decoder is not None:
            rooms.append(("process reward model", self._prm.decoder, lengths.prm + len(self._prm.suffix)))
        for name, decoder, length in rooms:
            if length >= decoder.context == decoder.capacity:
                raise CacheFullError(
                    f"the prompt has {length} tokens, but the {name}'s KV cache has {decoder.capacity} slots, for the "
                    "answer too: raise max_cache_tokens, or shorten the messages"
                )
            if length >= decoder.context:
                raise ContextOverflowError(
                    f"the prompt has {length} tokens, but the {name}'s context has {decoder.context} with the answer "
                    "included: shorten the messages"
                )
        return min(decoder.context - length for _, decoder, length in rooms)
