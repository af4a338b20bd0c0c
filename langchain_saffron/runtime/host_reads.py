"""What makes the host wait for a device: reading from it, or a shape that depends on what lies there."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from langchain_saffron.errors import UnsupportedModelError

# operations whose result the host needs before it can go on
_READING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "masked_select", "unique_dim",
    "_unique", "_unique2", "unique_consecutive", "bincount",
}  # fmt: skip


class NoHostReads(TorchDispatchMode):
    """Within this context, an operation of this thread that would make the host wait is an error.

    A CPU's tensors count as a device's: so it can be tested without one.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reads(func, args, kwargs):
            raise UnsupportedModelError(f"its forward reads from the device ({func})")
        return func(*args, **kwargs)


def reads(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation makes the host wait.

    Args:
        func: An operation of torch, as a dispatch mode gets it.
        args: Its arguments.
        kwargs: Its named arguments.
    """
    name = func.overloadpacket.__name__
    if name == "repeat_interleave":
        # with a known size there is nothing to be asked
        return func._overloadname.endswith("Tensor") and kwargs.get("output_size") is None
    if name in _READING or (name == "where" and len(args) == 1):
        return True
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        # a mask as an index is as long as it has ones
        indices = args[1]
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
    return name in ("to", "_to_copy", "copy_") and _crosses(name, args, kwargs)


def _crosses(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a copy goes from one device to another: either side of it is the host's."""
    source = args[1] if name == "copy_" else args[0]
    targets = [args[0]] if name == "copy_" else [*args[1:], kwargs.get("device"), kwargs.get("other")]
    for target in targets:
        device = target.device if isinstance(target, torch.Tensor) else target
        if isinstance(device, torch.device | str) and torch.device(device).type != source.device.type:
            return True
    return False
