"""Predicted rewards of next tokens: a table of them all, or numbers that are computed where a search asks for them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


class Rewards(ABC):
    """What a reward model says of the next tokens of some nodes.

    Attributes:
        unjudged: bool tensor [nodes, 1]: nodes within a thought, which nobody judges; their rewards are infinite.
    """

    unjudged: torch.Tensor

    @abstractmethod
    def whole(self) -> torch.Tensor:
        """float32 tensor [nodes, vocabulary]: all of them."""

    @abstractmethod
    def of(self, tokens: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
        """Some of them.

        Args:
            tokens: int64 tensor [nodes, columns]: each node's tokens; `None` for the whole vocabulary.
            wanted: bool tensor [nodes, columns]: which of those are asked for.

        Returns:
            float32 tensor [nodes, columns]; what is not wanted may be any number.
        """

    @abstractmethod
    def rows(self, places: Sequence[int]) -> "Rewards":
        """Those of other nodes: each takes the place of one of these, or, at -1, is one that nobody judges."""

    def aside(self) -> "Rewards":
        """The same for an onlooker: what is computed for it costs the search nothing."""
        return self


class RewardTable(Rewards):
    """All rewards, computed already."""

    def __init__(self, table: torch.Tensor) -> None:
        """Take them.

        Args:
            table: float32 tensor [nodes, vocabulary]; a row of infinity is that of a node which nobody judges.
        """
        self._table = table
        self.unjudged = table[:, :1] == torch.inf

    @classmethod
    def nothing(cls, nodes: int, vocabulary: int, device: torch.device) -> "RewardTable":
        """Of nodes that nobody judges."""
        return cls(torch.full((nodes, 1), torch.inf, device=device).expand(nodes, vocabulary))

    def whole(self) -> torch.Tensor:
        """The table."""
        return self._table

    def of(self, tokens: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
        """The columns of `tokens`."""
        return self._table if tokens is None else self._table.gather(1, tokens)

    def rows(self, places: Sequence[int]) -> "RewardTable":
        """Some rows of the table."""
        table = self._table.new_full((len(places), self._table.shape[1]), torch.inf)
        for row, place in enumerate(places):
            if place >= 0:
                table[row] = self._table[place]
        return RewardTable(table)
