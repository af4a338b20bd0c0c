"""What a reward head is fitted to: states of the frozen policy, computed once, and the rewards of what follows them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.training.dataset import RewardData

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
    """

    states: dict[int, torch.Tensor]
    following: torch.Tensor
    rewards: torch.Tensor
    conversations: torch.Tensor

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
            tick: Called with the conversations done so far.
        """
        device = policy.get_input_embeddings().weight.device
        order = sorted(range(len(data.samples)), key=lambda i: len(data.samples[i].token_ids))
        taps = {layer: LayerTap(policy, layer) for layer in layers}
        found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        following: list[np.ndarray] = []
        rewards: list[np.ndarray] = []
        conversations: list[np.ndarray] = []
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
                    # what is beyond float16 is beyond any use
                    found[layer].append(tap.take(index).float().clamp(-6e4, 6e4).half().cpu())
                following.append(ids[rows, at])
                conversations.append(np.asarray(order[start : start + _TOGETHER])[rows])
                rewards += [sample.rewards[place] for sample, place in zip(samples, places, strict=True)]
                if tick:
                    tick(start + len(samples))
        finally:
            for tap in taps.values():
                tap.close()
        return cls(
            {layer: torch.cat(parts) for layer, parts in found.items()},
            torch.from_numpy(np.concatenate(following)),
            torch.from_numpy(np.concatenate(rewards)),
            torch.from_numpy(np.concatenate(conversations)),
        )

    def some(self, index: torch.Tensor) -> "HeadStates":
        """The prefixes at `index`."""
        return HeadStates(
            {layer: states[index] for layer, states in self.states.items()},
            self.following[index],
            self.rewards[index],
            self.conversations[index],
        )
