"""From the reward model's scores to rewards of the policy's tokens."""

import torch

from langchain_saffron.engine.candidate_rewards import CandidateRewards, Spend
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.reward_head import RewardHead
from langchain_saffron.search.rewards import Rewards, RewardTable


class RewardColumns:
    """The reward model's vocabulary, cut or filled to the policy's: tokens that it does not know are unseen.

    Attributes:
        seen: bool tensor [vocabulary of the policy], on the policy's device.
    """

    def __init__(self, reward_model: MultifurcationRewardModel | RewardHead, policy: TrieDecoder) -> None:
        """Fit bias and mask to the policy.

        Args:
            reward_model: The reward model; a head has to be at work on `policy`.
            policy: The policy.
        """
        self._bias = _fit(reward_model.bias, policy, 0.0)
        self.seen = _fit(reward_model.seen, policy, False)
        self._map = reward_model.map if isinstance(reward_model, RewardHead) else None
        self._unembedding = (
            reward_model.unembedding if isinstance(reward_model, RewardHead) else reward_model.decoder.unembedding
        )

    @property
    def of_policy(self) -> bool:
        """Whether the states that it reads are the policy's."""
        return self._map is not None

    @property
    def later_cost(self) -> float:
        """TFLOP a node, at most, behind the forward that gave its states."""
        if self._unembedding is None:
            return 0.0
        product = self._unembedding.product * self._unembedding.outputs
        return (product + (self._map.flops if self._map else 0)) / 1e12

    def __call__(self, outputs: torch.Tensor, spend: Spend) -> Rewards:
        """`M(s)` over the policy's vocabulary, on its device.

        Args:
            outputs: The reward model's logits; its states where it is taken apart; for a head, those of its layer.
            spend: Told the FLOPs of every product that is computed later, and of how many nodes.
        """
        if self._unembedding is not None:
            level = None
            if self._map is not None:
                outputs, level = self._map(outputs)
                outputs, level = outputs.to(self._unembedding.dtype), level.to(self._bias.device)
                spend(self._map.flops * len(outputs), len(outputs))
            return CandidateRewards(outputs, self._unembedding, self._bias, spend, level)
        missing = len(self._bias) - outputs.shape[-1]
        logits = torch.nn.functional.pad(outputs, (0, missing)) if missing > 0 else outputs[:, : len(self._bias)]
        return RewardTable(logits.to(self._bias.device) + self._bias)


def _fit(row: torch.Tensor, policy: TrieDecoder, fill: float | bool) -> torch.Tensor:
    fitted = torch.full((policy.vocabulary,), fill, dtype=row.dtype, device=row.device)
    shared = min(len(fitted), len(row))
    fitted[:shared] = row[:shared]
    return fitted.to(policy.device)
