"""The rewards of answers, as whoever has the models' weights can read them."""

from collections.abc import Sequence
from typing import Any

import torch

from langchain_saffron.errors import RewardModelRequiredError
from langchain_saffron.interface.prompts import RenderedPrompt
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.prefix_scoring import Pair, PrefixScorer
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.reward_head import RewardHead


class RewardReader:
    """Reads the MRM of an engine or, where there is none, its process reward model."""

    def __init__(self, engine: Any, salt: str) -> None:
        """Take the reward model that is attacked.

        Args:
            engine: A `SaffronEngine`.
            salt: Whose cached prompts are shared.

        Raises:
            RewardModelRequiredError: There is none.
        """
        self._salt = salt
        self._mrm: MultifurcationRewardModel | RewardHead | None = engine.reward_model
        self._prm: ProcessRewardModel | None = engine.process_reward_model
        if self._mrm is None and self._prm is None:
            raise RewardModelRequiredError("an adaptive attack reads the reward model: pass one")

    def rewards(self, prompts: Sequence[RenderedPrompt], answers: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The reward of every prefix; runs the model, so it belongs on the engine's thread.

        Args:
            prompts: What was asked.
            answers: Token ids, at least one each.

        Returns:
            For each answer float32 [tokens], on the CPU.
        """
        if isinstance(self._mrm, RewardHead):
            return [self._by_head(self._mrm, *pair) for pair in zip(prompts, answers, strict=True)]
        if self._mrm is not None:
            pairs = [shifted(one.reward_ids or one.policy_ids, ids) for one, ids in zip(prompts, answers, strict=True)]
            found = PrefixScorer(self._mrm.decoder, ()).outputs(pairs, self._salt)
            bias = self._mrm.bias
            return [(chosen(rows, ids) + bias[list(ids)]).cpu() for rows, ids in zip(found, answers, strict=True)]
        assert self._prm is not None
        asked = [(one.prm_ids or one.policy_ids, list(ids)) for one, ids in zip(prompts, answers, strict=True)]
        return [rewards.float().cpu() for rewards in self._prm.score(asked)]

    def _by_head(self, head: RewardHead, prompt: RenderedPrompt, answer: Sequence[int]) -> torch.Tensor:
        ids = list(answer)
        return (
            torch.stack([head.rewards([*prompt.policy_ids, *ids[:i]])[one] for i, one in enumerate(ids)]).float().cpu()
        )


def shifted(prompt: Sequence[int], answer: Sequence[int]) -> Pair:
    """Prompt and answer so that a model's outputs at the answer are those that predict it: one token before."""
    *before, last = prompt
    return before, [last, *answer[:-1]]


def chosen(rows: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """Of every row [tokens, vocabulary] the token that came, as float32 [tokens]."""
    return rows.float()[torch.arange(len(tokens)), list(tokens)]
