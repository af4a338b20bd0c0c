"""What a reward head is fitted to: states of the frozen policy, computed once, and the rewards of what follows them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.sibling_states import SiblingStates, kept

# conversations in one forward, of similar length
_TOGETHER = 8


@dataclass(frozen=True)
class HeadStates:
    """Prefixes of annotated conversations.

    Attributes:
        states: By layer, float16 tensor [prefixes, width]: the policy's at the last token of each.
        following: int64 tensor [prefixes]: the token that follows.
        rewards: float32 tensor [prefixes]: the PRM's reward of the prefix with that token.
        conversations: int64 tensor [prefixes]: the place of each one's conversation among the samples.
        candidates: int64 tensor [prefixes, some]: other tokens that could follow.
        candidate_rewards: float32 tensor [prefixes, some]: likewise of those; NaN where there is none.
        siblings: What follows candidates; `None` where nobody asked.
    """

    states: dict[int, torch.Tensor]
    following: torch.Tensor
    rewards: torch.Tensor
    conversations: torch.Tensor
    candidates: torch.Tensor
    candidate_rewards: torch.Tensor
    siblings: SiblingStates | None = None

    @classmethod
    @torch.inference_mode()
    def of(
        cls, policy: Any, data: RewardData, layers: list[int], tick: Callable[[int], None] | None = None
    ) -> "HeadStates":
        """Run the policy over conversations, each once.

        Args:
            policy: A transformers causal LM.
            data: The conversations, as the policy reads them.
            layers: Whose states are wanted.
            tick: Called with the conversations done so far; those with what follows candidates are read once more.
        """
        device = policy.get_input_embeddings().weight.device
        order = sorted(range(len(data.samples)), key=lambda i: len(data.samples[i].token_ids))
        taps = {layer: LayerTap(policy, layer) for layer in layers}
        found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        following: list[np.ndarray] = []
        rewards: list[np.ndarray] = []
        conversations: list[np.ndarray] = []
        most = max(0 if sample.candidates is None else sample.candidates.shape[1] for sample in data.samples)
        beside: list[tuple[np.ndarray, np.ndarray]] = []
        try:
            for start in range(0, len(order), _TOGETHER):
                samples = [data.samples[i] for i in order[start : start + _TOGETHER]]
                ids = np.zeros((len(samples), max(len(sample.token_ids) for sample in samples)), dtype=np.int64)
                for row, sample in zip(ids, samples, strict=True):
                    row[: len(sample.token_ids)] = sample.token_ids
                # padded on the right, where nothing that counts looks
                policy.base_model(input_ids=torch.from_numpy(ids).to(device), use_cache=False)
                places = [np.flatnonzero(sample.known) for sample in samples]
                rows = np.repeat(np.arange(len(samples)), [len(place) for place in places])
                at = np.concatenate(places)
                index = torch.from_numpy(rows), torch.from_numpy(at - 1)
                for layer, tap in taps.items():
                    found[layer].append(kept(tap.take(index)))
                following.append(ids[rows, at])
                conversations.append(np.asarray(order[start : start + _TOGETHER])[rows])
                rewards += [sample.rewards[place] for sample, place in zip(samples, places, strict=True)]
                beside += [_beside(sample, place, most) for sample, place in zip(samples, places, strict=True)]
                if tick:
                    tick(start + len(samples))
        finally:
            for tap in taps.values():
                tap.close()
        tokens, of_tokens = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*beside, strict=True))
        return cls(
            {layer: torch.cat(parts) for layer, parts in found.items()},
            torch.from_numpy(np.concatenate(following)),
            torch.from_numpy(np.concatenate(rewards)),
            torch.from_numpy(np.concatenate(conversations)),
            tokens,
            of_tokens,
            SiblingStates.of(policy, data.samples, layers, lambda done: tick(len(order) + done) if tick else None),
        )

    def some(self, index: torch.Tensor) -> "HeadStates":
        """The prefixes at `index`."""
        return HeadStates(
            {layer: states[index] for layer, states in self.states.items()},
            self.following[index],
            self.rewards[index],
            self.conversations[index],
            self.candidates[index],
            self.candidate_rewards[index],
        )

    def targets(self, index: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """All tokens behind the prefixes at `index`, the one that was said first, and their rewards.

        Returns:
            int64 tensor [prefixes, 1 + some], and float32 likewise; NaN where there is no token.
        """
        tokens = torch.cat([self.following[index, None], self.candidates[index]], dim=1)
        return tokens, torch.cat([self.rewards[index, None], self.candidate_rewards[index]], dim=1)


def readings(data: RewardData) -> int:
    """How many times conversations are read: once each, and again where what follows candidates is known."""
    return sum(1 + (sample.after is not None) for sample in data.samples)


def _beside(sample: Sample, places: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates in some places, and their rewards, `most` columns wide."""
    tokens = np.zeros((len(places), most), dtype=np.int64)
    rewards = np.full((len(places), most), np.nan, dtype=np.float32)
    if sample.candidates is not None and sample.candidate_rewards is not None:
        count = sample.candidates.shape[1]
        tokens[:, :count], rewards[:, :count] = sample.candidates[places], sample.candidate_rewards[places]
    return tokens, rewards
