"""Packed linear layers that read the same rows, as one product: a call for each costs more than it multiplies."""

from collections.abc import Sequence
from typing import Any

import torch

from langchain_saffron.models.packing import PackedLinear

# weights in one product; beyond, a call is nothing beside its sums, and to lay weights out once more takes seconds
MOST_WEIGHTS = 2**24


class PackedProduct:
    """The columns of several layers, one after the other, in oneDNN's own layout.

    Attributes:
        layer: The layer that they are together.
        sizes: Outputs of each.
    """

    def __init__(self, layers: Sequence[PackedLinear]) -> None:
        """Join layers that have equally many inputs and one dtype."""
        self.sizes = [layer.out_features for layer in layers]
        joined = torch.nn.Linear(layers[0].in_features, sum(self.sizes), bias=False, device="meta")
        weight = torch.cat([layer.weight.to_dense() for layer in layers])
        joined.weight = torch.nn.Parameter(weight, requires_grad=False)
        if any(layer.bias is not None for layer in layers):
            zeros = weight.new_zeros(max(self.sizes))
            biases = [zeros[: layer.out_features] if layer.bias is None else layer.bias.detach() for layer in layers]
            joined.bias = torch.nn.Parameter(torch.cat(biases), requires_grad=False)
        self.layer = PackedLinear(joined)
        self._last: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """All columns, for any leading dimensions."""
        return self.layer.forward(rows)

    def part(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        """The columns of one layer; the others' are kept for them until the last has come for its own."""
        last = self._last
        if last is None or last[0] is not rows:
            last = rows, self(rows).split(self.sizes, dim=-1)
        self._last = None if index == len(self.sizes) - 1 else last
        return last[1][index]

    def dense(self, index: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [outputs, inputs] and bias of one layer."""
        bias = None if self.layer.bias is None else self.layer.bias.split(self.sizes)[index].clone()
        return self.layer.weight.to_dense().split(self.sizes)[index].clone(), bias


class PackedPart(torch.nn.Module):
    """One layer of a `PackedProduct`: the first has the product's tensors as its parameters."""

    def __init__(self, product: PackedProduct, index: int, layer: PackedLinear) -> None:
        super().__init__()
        self.product, self.index = product, index
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._has_bias = layer.bias is not None
        if index == 0:
            self.weight, self.bias = product.layer.weight, product.layer.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """For any leading dimensions."""
        return self.product.part(input, self.index)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        weight, bias = self.product.dense(self.index)
        destination[prefix + "weight"] = weight
        if self._has_bias and bias is not None:
            destination[prefix + "bias"] = bias

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedPart":
        # what it holds is never written to, and cannot be copied
        return self


@torch.inference_mode(False)
@torch.no_grad()
def join(parent: torch.nn.Module, names: Sequence[str]) -> None:
    """Make one product of the packed layers that a module has under some names, if that pays and no hook sees them.

    Args:
        parent: Whose layers all read the same rows; it is changed.
        names: Of the layers.
    """
    layers = [getattr(parent, name) for name in names]
    if not all(type(one) is PackedLinear and not one._forward_hooks and not one._forward_pre_hooks for one in layers):
        return
    if len({(one.in_features, one.weight.dtype) for one in layers}) != 1:
        return
    if sum(one.in_features * one.out_features for one in layers) > MOST_WEIGHTS:
        return
    product = PackedProduct(layers)
    rows = torch.randn(3, layers[0].in_features, generator=torch.Generator().manual_seed(0)).to(layers[0].weight.dtype)
    expected, found = torch.cat([one(rows) for one in layers], dim=-1).float(), product(rows).float()
    narrow = layers[0].weight.dtype != torch.float32
    if not bool((found - expected).norm() <= (1e-2 if narrow else 1e-5) * expected.norm()):
        return
    for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
        part = PackedPart(product, index, layer)
        part.training = False
        setattr(parent, name, part)
