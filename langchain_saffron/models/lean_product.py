"""Linear layers that read the same rows, as one call where they are one product."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from langchain_saffron.models.packed_product import PackedPart, PackedProduct
from langchain_saffron.models.quantized_linear import IntegerProduct, QuantizedLinear

Product = Callable[[torch.Tensor], torch.Tensor]


def lean_product(layers: Sequence[Any]) -> Product:
    """What gives the columns of all `layers`, one after the other, for rows [rows, inputs].

    Args:
        layers: Linear layers, or what stands in for them.
    """
    first = layers[0]
    if isinstance(first, QuantizedLinear | PackedPart) and len(first.product.sizes) == len(layers):
        joined: IntegerProduct | PackedProduct = first.product
        if all(isinstance(one, type(first)) and one.product is joined for one in layers):
            return joined
    if len(layers) == 1:
        called: Product = first
        return called
    return lambda rows: torch.cat([layer(rows) for layer in layers], dim=-1)
