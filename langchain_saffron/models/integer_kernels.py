"""The kernels that multiply int8 rows with int8 weights: which one is fast depends on the CPU.

All of them sum whole numbers exactly and scale the sums in the same order, so that the choice changes no bit of an
answer.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch

# So large that what is added to it is rounded to a whole number, half to even, and stands in the lowest byte; with 128
# more, as an unsigned number around 128. A tensor, since torch takes a microsecond to make one of a Python number; and
# not round(), which wakes torch's other threads for the fewest numbers: that takes them 50 µs if they sleep.
_ROUNDING = torch.tensor(1.5 * 2**23)
_ROUNDING_AROUND_128 = torch.tensor(1.5 * 2**23 + 128)
# rows of a plain step and of a wide one
_ROWS = (1, 16)
_RUNS = 5
# a candidate that is so much slower in its first run is not run again
_HOPELESS = 20.0
# bytes of weights that the caches of most CPUs do not hold
_CACHES = 48 * 2**20
# a model of layers so small that these lie in the caches does so itself
_MOST_COPIES = 64
# how much slower the best kernel has to be than the best one for each number of rows, to be worth memory for two
_WORTH_TWO = 0.25


def whole_numbers(quotients: torch.Tensor) -> torch.Tensor:
    """float32 within ±127, which is overwritten, rounded to int8."""
    return quotients.add_(_ROUNDING).view(torch.int32).char()


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

    def of_quotients(self, quotients: torch.Tensor) -> torch.Tensor:
        """The same of float32 [..., inputs] within ±127, which is rounded and overwritten."""
        return self(whole_numbers(quotients))

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
        return self._product(numbers.view(torch.uint8).bitwise_xor(128))

    def of_quotients(self, quotients: torch.Tensor) -> torch.Tensor:
        """The same of float32 within ±127."""
        return self._product(quotients.add_(_ROUNDING_AROUND_128).view(torch.int32).byte())

    def _product(self, around_128: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            around_128, 1.0, 128, self.weight, self.scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
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
        return self._of(numbers)(numbers)

    def of_quotients(self, quotients: torch.Tensor) -> torch.Tensor:
        """The same of float32 within ±127."""
        return self._of(quotients).of_quotients(quotients)

    def _of(self, rows: torch.Tensor) -> IntegerKernel:
        return self._one if rows.numel() == rows.shape[-1] else self._many

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
        _fastest[shape] = fastest(kinds, weight, scales)
    return _fastest[shape](weight, scales)


def fastest(kinds: list[type[IntegerKernel]], weight: torch.Tensor, scales: torch.Tensor) -> type[IntegerKernel]:
    """The kernel with the lowest cost: its time at each number of rows, as a multiple of the best one's.

    Many copies take turns, since the layers of a model push each other's weights out of the caches, and another kernel
    may be the faster one on weights that come from memory. Where the plain one is the better one by far for one row,
    and the packed one for several, it is both.
    """
    numbers = [torch.ones(rows, weight.shape[1], dtype=torch.int8) for rows in _ROWS]
    count = max(2, min(_MOST_COPIES, _CACHES // weight.numel()))
    times: list[list[float]] = []
    for kind in kinds:
        copies = [kind(weight.clone(), scales) for _ in range(count)]
        times.append([_seconds_each(copies, rows, [found[i] for found in times]) for i, rows in enumerate(numbers)])
    best = [min(column) for column in zip(*times, strict=True)]
    costs = [sum(one / least for one, least in zip(row, best, strict=True)) for row in times]
    found = kinds[costs.index(min(costs))]
    if set(kinds) == {PlainKernel, PackedKernel} and min(costs) > len(_ROWS) + _WORTH_TWO:
        # the other way round neither is worth keeping for the other's rows
        return PairedKernel if times[kinds.index(PlainKernel)][0] == best[0] else found
    return found


def _seconds_each(copies: list[IntegerKernel], numbers: torch.Tensor, others: list[float]) -> float:
    """How long one of the `copies` takes; not measured again and again where that is hopeless beside `others`."""
    copies[0](numbers)
    once = seconds_of(partial(copies[0], numbers), 1)
    if others and once > _HOPELESS * min(others):
        return once
    return seconds_of(lambda: [kernel(numbers) for kernel in copies]) / len(copies)


def seconds_of(run: Callable[[], object], runs: int = _RUNS, before: Callable[[], object] = lambda: None) -> float:
    """The least time that a call took, each after `before`, which is not counted."""
    best = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best
