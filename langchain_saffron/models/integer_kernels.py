"""The kernels that multiply int8 rows with int8 weights: which one is fast depends on the CPU.

All of them sum whole numbers exactly and scale the sums in the same order, so that the choice changes no bit of an
answer.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch

# rows of a plain step and of a wide one
_ROWS = (1, 16)
_RUNS = 5
# a candidate that is so much slower in its first run is not run again
_HOPELESS = 20.0


class IntegerKernel(ABC):
    """Rows of whole numbers times weights.

    Attributes:
        weight: The int8 weights, in the kernel's own layout.
        scales: float32 [outputs]: what one step of each output is worth.
    """

    weight: torch.Tensor
    scales: torch.Tensor

    @abstractmethod
    def __init__(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        """Lay out weights, int8 [outputs, inputs]."""

    @abstractmethod
    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sums times `scales`, float32 [..., outputs], of int8 [..., inputs]."""

    @abstractmethod
    def dense(self) -> torch.Tensor:
        """The weights, int8 [outputs, inputs]."""


class PlainKernel(IntegerKernel):
    """`torch._int_mm` on weights as they are."""

    def __init__(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        self.weight, self.scales = weight, scales
        self._columns = weight.t()

    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sums times `scales`."""
        sums = torch._int_mm(numbers.reshape(-1, numbers.shape[-1]), self._columns)
        return sums.float().mul_(self.scales).view(*numbers.shape[:-1], -1)

    def dense(self) -> torch.Tensor:
        """The weights."""
        return self.weight


class PackedKernel(IntegerKernel):
    """oneDNN's product on weights in its own layout.

    It is given rows as unsigned numbers around 128: for signed ones, oneDNN has nothing but a loop of hundredfold
    slowness on CPUs with AVX-512 VNNI and without AMX.
    """

    def __init__(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        self.weight, self.scales = torch.ops.onednn.qlinear_prepack(weight, None), scales
        self._zeros = torch.zeros(len(scales), dtype=torch.int32)

    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sums times `scales`."""
        output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            numbers.view(torch.uint8).bitwise_xor(128), 1.0, 128, self.weight, self.scales, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return output

    def dense(self) -> torch.Tensor:
        """The weights."""
        return self.weight.to_dense().t()


# by outputs and inputs
_fastest: dict[tuple[int, ...], type[IntegerKernel]] = {}


def lay_out(weight: torch.Tensor, scales: torch.Tensor) -> IntegerKernel:
    """The kernel that is the fastest here for weights of this shape: measured once a process.

    Args:
        weight: int8 [outputs, inputs].
        scales: float32 [outputs].
    """
    shape = tuple(weight.shape)
    if shape not in _fastest:
        kinds: list[type[IntegerKernel]] = [PlainKernel]
        if hasattr(torch.ops.onednn, "qlinear_prepack"):
            kinds.append(PackedKernel)
        _fastest[shape] = fastest([kind(weight, scales) for kind in kinds])
    return _fastest[shape](weight, scales)


def fastest(kernels: list[IntegerKernel]) -> type[IntegerKernel]:
    """The kernel with the lowest cost: its time at each number of rows, as a multiple of the best one's."""
    costs = [0.0] * len(kernels)
    for rows in _ROWS:
        numbers = torch.ones(rows, kernels[0].dense().shape[1], dtype=torch.int8)
        times: list[float] = []
        for kernel in kernels:
            kernel(numbers)
            once = seconds_of(partial(kernel, numbers), 1)
            hopeless = bool(times) and once > _HOPELESS * min(times)
            times.append(once if hopeless else seconds_of(partial(kernel, numbers)))
        costs = [cost + one / min(times) for cost, one in zip(costs, times, strict=True)]
    return type(kernels[costs.index(min(costs))])


def seconds_of(run: Callable[[], object], runs: int = _RUNS) -> float:
    """The least time that a call took."""
    best = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best
