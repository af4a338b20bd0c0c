"""Linear layers with their weights laid out for the CPU's matrix units, once, instead of anew in every call.

A search multiplies few rows with every weight, step after step. The plain kernels spend most of that time on
bringing the weights into the order in which they are used; oneDNN can keep them in that order.
"""

import copy
import itertools
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from langchain_saffron.runtime.devices import computes_bfloat16

# below this size a call costs more than the better layout saves
SMALLEST_WEIGHT = 2**16 + 1


class PackedLinear(torch.nn.Linear):
    """A linear layer in oneDNN's own layout; the same numbers, to the rounding of another order of summation."""

    def __init__(self, linear: torch.nn.Linear | Conv1D) -> None:
        # not Linear's own constructor: it would allocate a dense weight
        torch.nn.Module.__init__(self)
        dense = linear.weight.detach()
        dense = dense.t().contiguous() if isinstance(linear, Conv1D) else dense.contiguous()
        self.out_features, self.in_features = dense.shape
        self.weight = torch.nn.Parameter(torch.ops.mkldnn._reorder_linear_weight(dense), requires_grad=False)
        self.bias = linear.bias
        self._transposed = isinstance(linear, Conv1D)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`input @ weight.T + bias`, for any leading dimensions."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return output

    def unpack(self) -> torch.nn.Linear | Conv1D:
        """The layer that this one was made of."""
        dense = self.weight.to_dense()
        if self._transposed:
            # laid out as it was: a transposed view would go to another kernel, which rounds differently
            layer, dense = Conv1D(self.out_features, self.in_features), dense.t().contiguous()
        else:
            layer = torch.nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(dense, requires_grad=False)
        layer.bias = self.bias
        return layer.eval()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        dense = self.weight.to_dense()
        destination[prefix + "weight"] = dense.t() if self._transposed else dense

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedLinear":
        return PackedLinear(copy.deepcopy(self.unpack(), memo))


@torch.inference_mode(False)
@torch.no_grad()
def pack(model: Any, in_place: bool) -> Any:
    """Pack a model's large linear layers where that helps: on a CPU, in float32 or bfloat16.

    Args:
        model: A transformers model in eval mode.
        in_place: Whether the model may be changed, which needs no more memory. A model that belongs to somebody
            else stays as it is: a copy that shares all its other weights is packed.

    Returns:
        The packed model; `model` itself where there is nothing to pack.
    """
    large = large_linears(model)
    if not large or is_hooked(model):
        return model
    if not in_place:
        if sum(layer.weight.nbytes for layer in large.values()) > _free_memory() // 2:
            return model
        model = shared_copy(model)
        large = large_linears(model)
    for name, layer in large.items():
        replace(model, name, PackedLinear(layer))
    return model


def unpack(model: Any) -> None:
    """Put the plain layers back."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            replace(model, name, module.unpack())


def is_hooked(model: Any) -> bool:
    """Whether accelerate moves a model's weights about, which must be found where they were."""
    return any(getattr(module, "_hf_hook", None) is not None for module in model.modules())


def shared_copy(model: Any) -> Any:
    """A model with the same tensors whose layers can be replaced."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def large_linears(model: Any) -> dict[str, Any]:
    """Linear layers that are worth another layout, by name."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return {}
    dtypes = [torch.float32]
    if computes_bfloat16("cpu"):
        dtypes.append(torch.bfloat16)
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) in (torch.nn.Linear, Conv1D)
        and module.weight.device.type == "cpu"
        and module.weight.dtype in dtypes
        and module.weight.numel() >= SMALLEST_WEIGHT
    }


def replace(model: Any, name: str, layer: torch.nn.Module) -> None:
    """Put `layer` in the place of the one that has this name."""
    parent, _, child = name.rpartition(".")
    layer.training = False
    setattr(model.get_submodule(parent), child, layer)


def _free_memory() -> int:
    """Bytes that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
