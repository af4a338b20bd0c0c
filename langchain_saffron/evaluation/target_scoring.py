"""How likely a model is to begin an answer as an attacker wants it, for many prompts in few forwards."""

import secrets
from collections.abc import Sequence
from typing import Any

import torch

from langchain_saffron.errors import RewardModelRequiredError
from langchain_saffron.evaluation.runner import as_langchain
from langchain_saffron.evaluation.sample import Message
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.prefix_scoring import PrefixScorer
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.reward_head import RewardHead


class TargetScorer:
    """Scores prompts by what the models think of one beginning of an answer."""

    def __init__(self, engine: Any, adaptive: bool = False) -> None:
        """Take the models that are attacked.

        Args:
            engine: A `SaffronEngine`.
            adaptive: Whether the reward model is read too: the MRM if there is one, else the process reward model.

        Raises:
            RewardModelRequiredError: An adaptive attack needs a reward model, and there is none.
        """
        self._engine = engine
        self._renderer = PromptRenderer.for_engine(engine)
        self._policy = PrefixScorer(engine.policy, ())
        # apart from what requests have in the cache, or an attack would make the answers look cheaper
        self._salt = f"attack/{secrets.token_hex(8)}"
        self._mrm: MultifurcationRewardModel | RewardHead | None = engine.reward_model if adaptive else None
        self._prm: ProcessRewardModel | None = engine.process_reward_model if adaptive else None
        own = isinstance(self._mrm, MultifurcationRewardModel)
        self._rewards = PrefixScorer(self._mrm.decoder, ()) if self._mrm is not None and own else None
        if adaptive and self._mrm is None and self._prm is None:
            raise RewardModelRequiredError("an adaptive attack reads the reward model: pass one")

    def score(self, prompts: Sequence[Sequence[Message]], target: Sequence[int]) -> list[float]:
        """The mean over the target's tokens of their log-likelihood, in nats.

        With a reward model, `log sigmoid(reward)` is added, the log-probability that it finds the beginning safe.

        Args:
            prompts: Conversations up to the answer.
            target: Token ids of the beginning that is wanted.
        """
        rendered = [self._renderer.render(as_langchain(messages)) for messages in prompts]
        scores: list[float] = self._engine.call(lambda: self._scores(rendered, list(target)))
        return scores

    def _scores(self, rendered: Sequence[Any], target: list[int]) -> list[float]:
        outputs = self._policy.outputs([_pair(one.policy_ids, target) for one in rendered], self._salt)
        scores = torch.stack([_of(row.log_softmax(-1), target).mean() for row in outputs]).cpu()
        if self._rewards is not None and self._mrm is not None:
            pairs = [_pair(one.reward_ids or one.policy_ids, target) for one in rendered]
            bias = self._mrm.bias[target]
            found = self._rewards.outputs(pairs, self._salt)
            scores += torch.stack([_log_safe(_of(row, target) + bias) for row in found]).cpu()
        elif isinstance(self._mrm, RewardHead):
            head = self._mrm
            for at, one in enumerate(rendered):
                rows = [head.rewards([*one.policy_ids, *target[:i]])[token] for i, token in enumerate(target)]
                scores[at] += _log_safe(torch.stack(rows)).cpu()
        elif self._prm is not None:
            found = self._prm.score([(one.prm_ids or one.policy_ids, target) for one in rendered])
            scores += torch.stack([_log_safe(rewards) for rewards in found])
        return [float(score) for score in scores]


def _pair(prompt: Sequence[int], target: list[int]) -> tuple[Sequence[int], list[int]]:
    """The prompt, and what its outputs are read at: every token is predicted one before it."""
    *before, last = prompt
    return before, [last, *target[:-1]]


def _of(rows: torch.Tensor, target: list[int]) -> torch.Tensor:
    return rows.float()[torch.arange(len(target)), target]


def _log_safe(rewards: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(rewards.float()).mean()
