"""RMS normalisation of queries and keys, head by head, in few operations (Qwen3)."""

from typing import Any

import torch

from langchain_saffron.models.lean_norm import LeanNorm


class LeanHeadNorm:
    """Both norms of an attention layer at once."""

    def __init__(self, attention: Any, heads: int, kv_heads: int) -> None:
        """Take an attention layer's norms.

        Args:
            attention: The layer.
            heads: Of queries.
            kv_heads: Of keys.

        Raises:
            TypeError: They are no two norms of a kind.
        """
        query, key = attention.q_norm, attention.k_norm
        if (type(query), query.variance_epsilon) != (type(key), key.variance_epsilon):
            raise TypeError("queries and keys are normalised differently")
        self._heads, self._kv_heads = heads, kv_heads
        self._norm, self._modules = LeanNorm(query), (query, key)

    def __call__(self, heads_RHD: torch.Tensor) -> None:
        """Normalise the queries and keys in [rows, query, key and further heads, size] where they are."""
        turned = heads_RHD.narrow(1, 0, self._heads + self._kv_heads)
        even = self._norm.even(turned)
        for module, first, count in zip(self._modules, (0, self._heads), (self._heads, self._kv_heads), strict=True):
            turned.narrow(1, first, count).copy_(even.narrow(1, first, count).mul_(module.weight))
