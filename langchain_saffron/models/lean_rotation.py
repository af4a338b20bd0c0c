"""Rotary positions of one forward, prepared once for all its layers."""

from typing import NamedTuple

import torch


class LeanRotation(NamedTuple):
    """By what the heads of all rows are turned: queries, keys and values in one piece.

    Queries are scaled in passing, and values are multiplied by one, which costs less than to take them apart.

    Attributes:
        cosines: [rows, query, key and value heads, size].
        sines: Likewise, with the sign of what is added.
    """

    cosines: torch.Tensor
    sines: torch.Tensor

    @classmethod
    def of(
        cls, cosines: torch.Tensor, sines: torch.Tensor, heads: int, kv_heads: int, scaling: float
    ) -> "LeanRotation":
        """Lay out what the model's rotary embedding gives.

        Args:
            cosines: [rows, size].
            sines: [rows, size].
            heads: Of queries.
            kv_heads: Of keys, and of values.
            scaling: Factor of the scores.
        """
        rows, size = cosines.shape
        shape, turned, half = (rows, heads + 2 * kv_heads, size), heads + kv_heads, size // 2
        made = cls(cosines.new_ones(shape), sines.new_zeros(shape))
        made.cosines[:, :turned] = cosines[:, None]
        made.sines[:, :turned] = sines[:, None]
        made.sines[..., :half].neg_()
        made.cosines[:, :heads].mul_(scaling)
        made.sines[:, :heads].mul_(scaling)
        return made

    def turn(self, heads: torch.Tensor) -> torch.Tensor:
        """Turn all heads [rows, query, key and value heads, size]."""
        # by half a head, which swaps its halves
        swapped = torch.roll(heads, heads.shape[-1] // 2, -1)
        return torch.mul(heads, self.cosines).add_(swapped.mul_(self.sines))
