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
# bytes whose reading leaves nothing else in the caches of most CPUs
_CACHES = 64 * 2**20
# how much slower the best kernel has to be than the best one for each number of rows, to be worth memory for two
_WORTH_TWO = 0.25


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


class PairedKernel(IntegerKernel):
    """Both: weights as they are for a single row, packed ones for several.

    Small weights take turns so: for one row, oneDNN's call costs more than the sums; for several, `torch._int_mm` is
    the slower one. It takes the memory of two.
    """

    def __init__(self, weight: torch.Tensor, scales: torch.Tensor) -> None:
        self._one, self._many = PlainKernel(weight, scales), PackedKernel(weight, scales)
        self.weight, self.scales = weight, scales

    def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sums times `scales`."""
        return (self._one if numbers.numel() == numbers.shape[-1] else self._many)(numbers)

    def dense(self) -> torch.Tensor:
        """The weights."""
        return self.weight


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
    """The kernel with the lowest cost: its time at each number of rows, as a multiple of the best one's.

    Weights are read from memory, as in a model, whose layers push each other out of the caches: there another kernel
    may be the faster one. Where each of the two kernels is the better one by far for one number of rows, it is both.
    """
    inputs = kernels[0].dense().shape[1]
    others = torch.ones(_CACHES // 4)
    times: list[list[float]] = []
    for rows in _ROWS:
        numbers = torch.ones(rows, inputs, dtype=torch.int8)
        found: list[float] = []
        for kernel in kernels:
            kernel(numbers)
            once = seconds_of(partial(kernel, numbers), 1)
            hopeless = bool(found) and once > _HOPELESS * min(found)
            found.append(once if hopeless else seconds_of(partial(kernel, numbers), before=others.sum))
        times.append(found)
    costs = [
        sum(one / min(found) for one, found in zip(column, times, strict=True)) for column in zip(*times, strict=True)
    ]
    best = costs.index(min(costs))
    kinds = [type(kernel) for kernel in kernels]
    if set(kinds) == {PlainKernel, PackedKernel} and min(costs) > len(_ROWS) + _WORTH_TWO:
        plain = kinds.index(PlainKernel)
        # the other way round neither is worth keeping for the other's rows
        return PairedKernel if times[0][plain] == min(times[0]) else kinds[best]
    return kinds[best]


def seconds_of(run: Callable[[], object], runs: int = _RUNS, before: Callable[[], object] = lambda: None) -> float:
    """The least time that a call took, each after `before`, which is not counted."""
    best = float("inf")
    for _ in range(runs):
        before()
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best
