"""States of a policy after tokens that it could have said, and the rewards of what follows those."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.models.row_lot import MOST_ROWS, fill
from langchain_saffron.training.sample import Sample


@dataclass(frozen=True)
class SiblingStates:
    """What tells prefixes apart that differ in their last token, as the beams of a search do.

    Attributes:
        states: By layer, float16 tensor [pairs, width]: the policy's behind the first token of each.
        following: int64 tensor [pairs]: the second.
        rewards: float32 tensor [pairs]: the PRM's reward behind both.
        place: int64 tensor [pairs]: the same number for pairs behind the same prefix, from 0 and in order.
    """

    states: dict[int, torch.Tensor]
    following: torch.Tensor
    rewards: torch.Tensor
    place: torch.Tensor

    @property
    def places(self) -> int:
        """How many prefixes have pairs."""
        return int(self.place[-1]) + 1

    @classmethod
    @torch.inference_mode()
    def of(
        cls,
        policy: Any,
        samples: Sequence[Sample],
        layers: list[int],
        tick: Callable[[int], None] | None = None,
    ) -> "SiblingStates | None":
        """Run the policy over some conversations with what could have been said in them.

        Args:
            policy: A transformers causal LM.
            samples: The conversations, as the policy reads them.
            layers: Whose states are wanted.
            tick: Called with the conversations done so far.

        Returns:
            `None` where none has rewards of what follows candidates.
        """
        samples = [sample for sample in samples if sample.after is not None]
        if not samples:
            return None
        decoder = TrieDecoder(policy, "policy")
        taps = {layer: LayerTap(decoder.model, layer) for layer in layers}
        found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        following, rewards, place = [], [], []
        places = 0
        try:
            for done, sample in enumerate(samples):
                assert sample.after is not None
                assert sample.after_rewards is not None
                order = np.argsort(sample.after[:, 0], kind="stable")
                after = sample.after[order]
                heads, which = np.unique(after[:, :2], axis=0, return_inverse=True)
                for layer, states in _behind(decoder, taps, sample.token_ids.tolist(), heads.tolist()).items():
                    found[layer].append(states[torch.from_numpy(which.reshape(-1))])
                following.append(after[:, 2])
                rewards.append(sample.after_rewards[order])
                own = np.unique(after[:, 0], return_inverse=True)[1].reshape(-1)
                place.append(own + places)
                places += int(own.max()) + 1
                if tick:
                    tick(done + 1)
        finally:
            for tap in taps.values():
                tap.close()
        return cls(
            {layer: torch.cat(parts) for layer, parts in found.items()},
            *(torch.from_numpy(np.concatenate(parts)) for parts in (following, rewards, place)),
        )

    def of_places(self, wanted: Sequence[int]) -> "SiblingStates":
        """The pairs of some places."""
        edges = torch.searchsorted(self.place, torch.tensor([[one, one + 1] for one in wanted]))
        index = torch.cat([torch.arange(int(start), int(stop)) for start, stop in edges])
        own = torch.repeat_interleave(torch.arange(len(wanted)), edges[:, 1] - edges[:, 0])
        states = {layer: states[index] for layer, states in self.states.items()}
        return SiblingStates(states, self.following[index], self.rewards[index], own)


def kept(states: torch.Tensor) -> torch.Tensor:
    """States as they are kept: in float16, on the CPU."""
    # what is beyond float16 is beyond any use
    return states.float().clamp(-6e4, 6e4).half().cpu()


def _behind(
    decoder: TrieDecoder, taps: dict[int, LayerTap], ids: list[int], heads: list[list[int]]
) -> dict[int, torch.Tensor]:
    """States behind tokens at some places of a conversation, by layer, float16 [heads, width]."""
    forest = decoder.forest
    trunk = forest.insert(ids)
    held = [trunk[-1]]
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in taps}
    try:
        fill(decoder, [trunk])
        for start in range(0, len(heads), MOST_ROWS):
            nodes = [forest.insert([token], trunk[at - 1])[-1] for at, token in heads[start : start + MOST_ROWS]]
            held += nodes
            decoder.forward(nodes, [])
            for layer, tap in taps.items():
                parts[layer].append(kept(tap.take((0, slice(None)))))
    finally:
        for node in held:
            forest.release(node)
    return {layer: torch.cat(some) for layer, some in parts.items()}
