"""How likely a model is to begin an answer as an attacker wants it, for many prompts in few forwards."""

import secrets
from collections.abc import Sequence
from typing import Any

import torch

from langchain_saffron.evaluation.reward_reading import RewardReader, chosen, shifted
from langchain_saffron.evaluation.runner import as_langchain
from langchain_saffron.evaluation.sample import Message
from langchain_saffron.interface.prompts import PromptRenderer, RenderedPrompt
from langchain_saffron.models.prefix_scoring import PrefixScorer


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
        self._reader = RewardReader(engine, self._salt) if adaptive else None

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

    def _scores(self, rendered: Sequence[RenderedPrompt], target: list[int]) -> list[float]:
        outputs = self._policy.outputs([shifted(one.policy_ids, target) for one in rendered], self._salt)
        scores = torch.stack([chosen(row.float().log_softmax(-1), target).mean() for row in outputs]).cpu()
        if self._reader is not None:
            found = self._reader.rewards(rendered, [target] * len(rendered))
            scores += torch.stack([torch.nn.functional.logsigmoid(rewards).mean() for rewards in found])
        return [float(score) for score in scores]
