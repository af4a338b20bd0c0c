"""RMS normalisation in few operations."""

from typing import Any

import torch


class LeanNorm:
    """What a Llama's `RMSNorm` computes, for any leading dimensions.

    On a CPU in float32 that is seven operations of half a microsecond or one in place of eight, three of them dear. A
    row's result does not depend on the rows beside it: every operation is rounded for itself.
    """

    def __init__(self, norm: Any) -> None:
        """Take a model's norm, whose weights are used where it has them then."""
        self._module = norm
        self._size = len(norm.weight)
        self._eps: float = norm.variance_epsilon
        # tensors, since torch takes a microsecond to make one of a Python number
        self._share, self._added = torch.tensor(1 / self._size), torch.tensor(self._eps)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows, normalised, in their own dtype."""
        return self.even(rows).mul_(self._module.weight)

    def even(self, rows: torch.Tensor) -> torch.Tensor:
        """The same before it is multiplied with the weights."""
        if not rows.is_cpu or rows.dtype != torch.float32:
            return torch.nn.functional.rms_norm(rows, (self._size,), None, self._eps)
        length = torch.linalg.vector_norm(rows, 2, -1, True)
        return torch.mul(rows, length.mul_(length).mul_(self._share).add_(self._added).rsqrt_())
