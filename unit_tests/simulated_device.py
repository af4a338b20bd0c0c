"""A device that is none: tensors that compute on the CPU, call themselves CUDA's, and know when the host looks at them.

It says how often the host would wait for a GPU, and which of the code's ways for a GPU run at all.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from langchain_saffron import SaffronEngine
from langchain_saffron.engine.request import REWARD
from langchain_saffron.runtime.host_reads import reads

DEVICE = torch.device("cuda:0")
# what was read from the device, and what was sent there
READS: Counter[str] = Counter()
UPLOADS: Counter[str] = Counter()


class DeviceTensor(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "DeviceTensor":
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="cpu", dispatch_device=True, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"DeviceTensor({self.inner})"

    # torch's own ask for a guard of the device
    def __getitem__(self, index: Any) -> Any:
        _note_index(index)
        return _wrapped(self.inner[tree_map(_inner, index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        _note_index(index)
        self.inner[tree_map(_inner, index)] = _inner(value)

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> "DeviceTensor":
        UPLOADS["copy_"] += not isinstance(source, DeviceTensor)
        self.inner.copy_(_inner(source))
        return self

    def __invert__(self) -> Any:
        return torch.bitwise_not(self)

    def contiguous(self, **options: Any) -> Any:
        return _wrapped(self.inner.contiguous(**options))

    def item(self) -> Any:
        READS["item"] += 1
        return self.inner.item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def cpu(self, **options: Any) -> torch.Tensor:
        READS["cpu"] += 1
        return self.inner.clone()

    def nonzero(self, *, as_tuple: bool = False) -> Any:
        READS["nonzero"] += 1
        return tree_map(_wrapped, self.inner.nonzero(as_tuple=as_tuple))

    def tolist(self) -> Any:
        READS["tolist"] += 1
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("a GPU's tensor has to be copied first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return DEVICE
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, torch.Tensor)]
        plain = [item for item in tensors if not isinstance(item, cls) and item.dim()]
        to = _target(args, kwargs)
        if to is not None and to.type == "cpu":
            READS[name] += 1
            return tree_map(_inner, args[0]).clone()
        if plain and "index" not in name:
            raise RuntimeError(f"Expected all tensors to be on the same device ({func})")
        elif plain:
            UPLOADS[name] += 1
        elif reads(func, args, kwargs):
            READS[name] += 1
        args, kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
        kwargs = {key: torch.device("cpu") if key == "device" else value for key, value in kwargs.items()}
        args = tuple(torch.device("cpu") if isinstance(item, torch.device) else item for item in args)
        found = func(*args, **kwargs)
        return tree_map(_wrapped, found)


class SimulatedDevice(TorchFunctionMode):
    """Within this context, what is made on, or sent to, CUDA's first device lies on the simulated one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to = _target(args, kwargs)
        own = bool(args) and isinstance(args[0], torch.Tensor)
        if func is torch.where and len(args) == 3:
            # it would make a tensor of a number by itself, on the device of the others
            return _wrapped(func(*tree_map(_inner, args)))
        if to is None or to.type != "cuda":
            return func(*args, **kwargs)
        there = own and isinstance(args[0], DeviceTensor)
        kwargs = {key: _inner(value) for key, value in kwargs.items() if key != "device"}
        args = tuple(torch.device("cpu") if isinstance(item, torch.device) else _inner(item) for item in args)
        found = func(*args, **kwargs)
        if own and not there:
            UPLOADS[func.__name__] += 1
            # a copy: what happens to it later does not happen to the original
            found = found.clone()
        return _wrapped(found)


def to_device(module: torch.nn.Module) -> None:
    """Move a module there in place; what it ties stays tied."""
    moved: dict[int, DeviceTensor] = {}
    for part in module.modules():
        for name, tensor in [*part._parameters.items(), *part._buffers.items()]:
            if tensor is None or isinstance(tensor, DeviceTensor):
                continue
            there = moved.setdefault(id(tensor), DeviceTensor(tensor.detach()))
            if name in part._parameters:
                part._parameters[name] = torch.nn.Parameter(there, requires_grad=False)
            else:
                part._buffers[name] = there


def _note_index(index: Any) -> None:
    for item in index if isinstance(index, tuple) else (index,):
        if isinstance(item, DeviceTensor) and item.dtype == torch.bool:
            READS["mask as index"] += 1
        elif isinstance(item, torch.Tensor) and not isinstance(item, DeviceTensor):
            UPLOADS["index"] += 1


def _target(args: Any, kwargs: Any) -> torch.device | None:
    """Where a function's result is to lie, if it says."""
    for item in (*args, kwargs.get("device")):
        if isinstance(item, torch.device):
            return item
        if isinstance(item, str) and item.split(":")[0] in ("cpu", "cuda"):
            return torch.device(item)
    return None


def _inner(item: Any) -> Any:
    return item.inner if isinstance(item, DeviceTensor) else item


def _wrapped(item: Any) -> Any:
    return DeviceTensor(item) if isinstance(item, torch.Tensor) and not isinstance(item, DeviceTensor) else item


@contextmanager
def simulated(engine: SaffronEngine) -> Iterator[None]:
    """Within this context an engine's models lie on the simulated device; for one that nobody uses meanwhile."""
    mode = SimulatedDevice()
    decoders = [engine.policy]
    columns = engine.scheduler._scorer._translate.get(REWARD)
    if engine.reward_model is not None:
        decoders.append(engine.reward_model.decoder)
    for decoder in decoders:
        to_device(decoder.model)
        decoder.clear()
        if decoder.unembedding is not None:
            decoder.unembedding._weight = decoder.model.get_output_embeddings().weight
    if columns is not None:
        columns._bias, columns.seen = _wrapped(columns._bias), _wrapped(columns.seen)
    engine.call(mode.__enter__)
    try:
        yield
    finally:
        engine.call(lambda: mode.__exit__(None, None, None))
