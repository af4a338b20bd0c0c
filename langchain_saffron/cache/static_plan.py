"""What a decode step of fixed shape reads, all of it in tensors on the device."""

from dataclasses import dataclass

import torch

from langchain_saffron.cache.attention_plan import Batch, Pool


@dataclass(frozen=True)
class StaticPlan:
    """The attention of a step whose shape says nothing of how many rows, requests or slots there are.

    All its requests are one batch, which every layer of a kind shares. Nothing of it is looked at on the host.

    Attributes:
        pool: What it reads.
        batches: For every kind of layer.
        kinds: Each layer's kind of attention.
        places: int64 tensor [rows]: where in the batch, [groups · rows a group], each row of the forward stands.
    """

    pool: Pool
    batches: dict[str, Batch]
    kinds: list[str]
    places: torch.Tensor

    def of_layer(self, index: int) -> Batch:
        """What a layer's rows read."""
        return self.batches[self.kinds[index]]
