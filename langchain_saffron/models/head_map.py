"""The trained part of a reward head: from a layer's states to what is multiplied with the rows of the unembedding."""

import torch


class HeadMap(torch.nn.Module):
    """`g(h)`: standardised states through a narrow residual block, and a level that all tokens of a state share.

    Attributes:
        mean: float32 [width]: of the states that it was trained on, buffer.
        spread: float32 [width]: their standard deviation, buffer.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, width: int, out: int, rank: int) -> None:
        """Rewards of 0 throughout, before any training.

        Args:
            width: Of a layer's states.
            out: Of the unembedding's rows.
            rank: Of everything between.
        """
        super().__init__()
        self.inner = torch.nn.Linear(width, rank)
        self.up = torch.nn.Linear(rank, 2 * rank)
        self.down = torch.nn.Linear(2 * rank, rank)
        self.outer = torch.nn.Linear(rank, out + 1)
        for zero in (self.outer.weight, self.outer.bias):
            torch.nn.init.zeros_(zero)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    @property
    def flops(self) -> int:
        """FLOPs of one state."""
        return sum(2 * layer.weight.numel() for layer in (self.inner, self.up, self.down, self.outer))

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of states [..., width] of any dtype: float32 [..., out], for the product, and the level, float32 [..., 1]."""
        # one coordinate that runs away does not decide over the rest
        inner = self.inner(((states.float() - self.mean) / self.spread).clamp(-20, 20))
        inner = inner + self.down(torch.nn.functional.silu(self.up(inner)))
        found = self.outer(inner)
        return found[..., :-1], found[..., -1:]


def rank_within(share: float, parameters: int, width: int, out: int, tokens: int, most: int = 256) -> int:
    """The highest rank, in steps of 4, with which a head's file takes a share of its policy's.

    Args:
        share: That share.
        parameters: Of the policy, at two bytes each.
        width: Of a layer's states.
        out: Of the unembedding's rows.
        tokens: Of the vocabulary, which take a bias and a flag each.
        most: What no head gains by exceeding.
    """
    # the probe's states, the names of tensors and the config
    room = share * 2 * parameters - 5 * tokens - 4 * 18 * width - 8_000
    rank = 4
    while rank + 4 <= most and 4 * _numbers(width, out, rank + 4) <= room:
        rank += 4
    return rank


def _numbers(width: int, out: int, rank: int) -> int:
    return rank * (width + 1) + 2 * rank * (rank + 1) + rank * (2 * rank + 1) + (out + 1) * (rank + 1)
