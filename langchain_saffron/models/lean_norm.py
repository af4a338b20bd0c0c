"""RMS normalisation in few operations."""

import math
from typing import Any

import torch


class LeanNorm:
    """What a Llama's `RMSNorm` computes, for any leading dimensions.

    On a CPU in float32 that is six operations of a microsecond each in place of eight, three of them dear. A row's
    result does not depend on the rows beside it: every operation is rounded for itself.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        """Take the weights of a norm.

        Args:
            weight: [..., size], or what broadcasts to that.
            eps: What is added to the mean square.
        """
        self._size = weight.shape[-1]
        self._weight, self._eps = weight, eps
        self._is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        # x / √(mean(x²) + ε) = √size · x / √(sum(x²) + size · ε)
        self._scaled_weight = weight * math.sqrt(self._size)
        self._scaled_eps = torch.tensor(eps * self._size)

    @classmethod
    def of(cls, norm: Any) -> "LeanNorm":
        """That of a model."""
        return cls(norm.weight.detach(), norm.variance_epsilon)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows, normalised, in their own dtype."""
        if not self._is_plain:
            return torch.nn.functional.rms_norm(rows, (self._size,), None, self._eps).mul_(self._weight)
        length = torch.linalg.vector_norm(rows, 2, -1, True)
        factor = length.mul_(length).add_(self._scaled_eps).rsqrt_()
        return torch.mul(rows, factor).mul_(self._scaled_weight)
