"""Linear layers of eight-bit integers, multiplied exactly: what a row gives does not depend on the rows beside it."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from langchain_saffron.models.integer_kernels import lay_out, whole_numbers

LARGEST = 127
# a row of zeros has no scale of its own
_SMALLEST_SCALE = torch.tensor(1e-30)


class IntegerProduct:
    """`rows @ weight.T + bias`, weights and rows in int8: one scale an output, and one scale a row.

    The sums are integers, so that neither their order nor the number of rows changes anything. Layers that read the
    same input are one product: the columns are theirs, one after the other.

    Attributes:
        kernel: int8 weights and what multiplies them.
        bias: float32 [outputs], or `None`.
        sizes: Outputs of each layer.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear | Conv1D]) -> None:
        """Quantise layers that have equally many inputs."""
        weights = [_dense(layer) for layer in layers]
        self.sizes = [len(weight) for weight in weights]
        parts = [_quantized(weight) for weight in weights]
        self.kernel = lay_out(torch.cat([rows for rows, _ in parts]), torch.cat([scales for _, scales in parts]))
        self.bias = _joined_bias(layers, self.sizes)
        self._last: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """All columns, for any leading dimensions, in the dtype of `rows`."""
        if rows.numel() == 0:
            # a forward that only fills the cache scores nothing
            return rows.new_empty(*rows.shape[:-1], len(self.kernel.scales))
        quotients, scale = _in_steps(rows)
        output = self.kernel.of_quotients(quotients).mul_(scale)
        if self.bias is not None:
            output.add_(self.bias)
        return output.to(rows.dtype)

    def part(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        """The columns of one layer; the others' are kept for them until the last has come for its own."""
        if len(self.sizes) == 1:
            return self(rows)
        last = self._last
        if last is None or last[0] is not rows:
            last = rows, self(rows).split(self.sizes, dim=-1)
        # not held for longer than needed: it may be a long prompt's
        self._last = None if index == len(self.sizes) - 1 else last
        return last[1][index]

    def dequantized(self, index: int) -> torch.Tensor:
        """float32 [outputs, inputs]: what the weights of one layer stand for."""
        weight, scales, _ = self.layer(index)
        return weight.float() * scales[:, None]

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Weights, int8 [outputs, inputs], scales and bias of one layer, in torch's own layout."""
        weight = self.kernel.dense().split(self.sizes)[index]
        bias = None if self.bias is None else self.bias.split(self.sizes)[index]
        return weight, self.kernel.scales.split(self.sizes)[index], bias


class QuantizedLinear(torch.nn.Module):
    """One layer of an `IntegerProduct`.

    It has the product's tensors as its parameters if it is the first; those of the others are in there.
    """

    def __init__(self, product: IntegerProduct, index: int, layer: torch.nn.Linear | Conv1D) -> None:
        super().__init__()
        self.product, self._index = product, index
        self._transposed = isinstance(layer, Conv1D)
        self.in_features = int(layer.weight.shape[0 if self._transposed else 1])
        self.out_features = product.sizes[index]
        if index == 0:
            held = {"weight": product.kernel.weight, "scales": product.kernel.scales, "bias": product.bias}
            for name, tensor in held.items():
                made = None if tensor is None else torch.nn.Parameter(tensor, requires_grad=False)
                self.register_parameter(name, made)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """For any leading dimensions."""
        return self.product.part(input, self._index)

    def rows(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Weights, int8 [outputs, inputs], scales and bias, for `integer_rows`."""
        weight, scales, bias = self.product.layer(self._index)
        return weight.contiguous(), scales, bias

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        weight = self.product.dequantized(self._index)
        destination[prefix + "weight"] = weight.t().contiguous() if self._transposed else weight
        if self.product.bias is not None:
            destination[prefix + "bias"] = self.product.bias.split(self.product.sizes)[self._index].clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> "QuantizedLinear":
        # what it holds is never written to, and cannot be copied
        return self


def integer_rows(
    rows: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The columns of an `IntegerProduct` that some of its outputs make, to the last bit.

    Args:
        rows: [rows, inputs].
        weight: int8 [outputs, inputs].
        scales: float32 [outputs].
        bias: float32 [outputs], or `None`.

    Returns:
        [rows, outputs], in the dtype of `rows`.
    """
    quotients, scale = _in_steps(rows)
    numbers = whole_numbers(quotients)
    # sums of integers: exact in float64, and in float32 as long as they are small
    exact = torch.float32 if weight.shape[1] * LARGEST**2 < 2**24 else torch.float64
    sums = torch.nn.functional.linear(numbers.to(exact), weight.to(exact))
    output = sums.float().mul_(scales).mul_(scale)
    return (output if bias is None else output.add_(bias)).to(rows.dtype)


def _in_steps(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in steps, float32 [..., inputs], within ±127 and not rounded yet, and what one step of each is worth."""
    numbers = rows.float()
    scale = torch.add(_SMALLEST_SCALE, numbers.abs().amax(dim=-1, keepdim=True), alpha=1 / LARGEST)
    return numbers.div(scale), scale


def _dense(layer: torch.nn.Linear | Conv1D) -> torch.Tensor:
    """The weights as [outputs, inputs]."""
    weight = layer.weight.detach().float()
    return weight.t() if isinstance(layer, Conv1D) else weight


def _quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [outputs, inputs], and what one step of each output is worth."""
    scales = weight.abs().amax(dim=1).div_(LARGEST).clamp_(min=float(_SMALLEST_SCALE))
    return weight.div(scales[:, None]).round_().to(torch.int8), scales


def _joined_bias(layers: Sequence[torch.nn.Linear | Conv1D], sizes: Sequence[int]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [
            torch.zeros(size) if layer.bias is None else layer.bias.detach().float()
            for layer, size in zip(layers, sizes, strict=True)
        ]
    )
