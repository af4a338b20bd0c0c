"""Linear layers that read the same rows, as one call where they are one product."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from langchain_saffron.models.quantized_linear import QuantizedLinear

Product = Callable[[torch.Tensor], torch.Tensor]


def lean_product(layers: Sequence[Any]) -> Product:
    """What gives the columns of all `layers`, one after the other, for rows [rows, inputs].

    Args:
        layers: Linear layers, or what stands in for them.
    """
    first = layers[0]
    if isinstance(first, QuantizedLinear) and len(first.product.sizes) == len(layers):
        alike = [one.product if isinstance(one, QuantizedLinear) else None for one in layers]
        if all(product is first.product for product in alike):
            return first.product
    if len(layers) == 1:
        called: Product = first
        return called
    return lambda rows: torch.cat([layer(rows) for layer in layers], dim=-1)
