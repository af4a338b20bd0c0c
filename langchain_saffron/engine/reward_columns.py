"""From the reward model's scores to rewards of the policy's tokens."""

import torch

from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.mrm import MultifurcationRewardModel


class RewardColumns:
    """The reward model's vocabulary, cut or filled to the policy's: tokens that it does not know are unseen.

    Attributes:
        seen: bool tensor [vocabulary of the policy], on the policy's device.
    """

    def __init__(self, reward_model: MultifurcationRewardModel, policy: TrieDecoder) -> None:
        """Fit bias and mask to the policy."""
        self._bias = _fit(reward_model.bias, policy, 0.0)
        self.seen = _fit(reward_model.seen, policy, False)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """`M(s)` [rows, vocabulary of the policy], on its device, from the reward model's logits."""
        missing = len(self._bias) - logits.shape[-1]
        logits = torch.nn.functional.pad(logits, (0, missing)) if missing > 0 else logits[:, : len(self._bias)]
        return logits.to(self._bias.device) + self._bias


def _fit(row: torch.Tensor, policy: TrieDecoder, fill: float | bool) -> torch.Tensor:
    fitted = torch.full((policy.vocabulary,), fill, dtype=row.dtype, device=row.device)
    shared = min(len(fitted), len(row))
    fitted[:shared] = row[:shared]
    return fitted.to(policy.device)
