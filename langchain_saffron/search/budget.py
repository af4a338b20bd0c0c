"""A request's purse: what its compute budget still allows."""

import time
from collections.abc import Callable

from langchain_saffron.settings import ComputeBudget


class Purse:
    """Counts what a request has spent and says what it can still afford.

    The engine pays in; the search asks. TFLOP and reward calls of a step are known before it runs, so
    these limits are never exceeded; seconds are, by one step at most, and so is TFLOP where a process reward
    model reads what it has not read before.

    Attributes:
        budget: The limits.
        tflops: Spent so far.
        reward_calls: Sequences scored by a reward model so far.
    """

    def __init__(
        self,
        budget: ComputeBudget | None = None,
        row_cost: Callable[[int], float] | None = None,
        calls_per_row: int = 0,
        judge_cost: Callable[[int], float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Open a purse; its clock starts now.

        Args:
            budget: The limits; `None` for none.
            row_cost: TFLOP of scoring one node whose response length is given, in all models.
            calls_per_row: Reward calls that scoring one node takes.
            judge_cost: TFLOP of one call of a process reward model on a response of the given length, where the search
                asks one.
            clock: Seconds, monotonic.
        """
        self.budget = budget or ComputeBudget()
        self.tflops = 0.0
        self.reward_calls = 0
        self._row_cost = row_cost or (lambda length: 0.0)
        self._calls_per_row = calls_per_row
        self._judge_cost = judge_cost or (lambda length: 0.0)
        self._judges = judge_cost is not None
        self._clock = clock
        self._start = clock()
        self._rows = 0
        self._searching_since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the purse was opened."""
        return self._clock() - self._start

    def pay(self, tflops: float = 0.0, reward_calls: int = 0, rows: int = 0) -> None:
        """Book what a forward cost; `rows` counts scored nodes, for the pace that `narrow` needs."""
        self.tflops += tflops
        self.reward_calls += reward_calls
        if self._searching_since is None:
            if rows:
                # the prompt's own forward says nothing about the pace of a step
                self._searching_since = self._clock()
        else:
            self._rows += rows

    def affords(self, rows: int, length: int, judged: int = 0) -> bool:
        """Whether scoring `rows` nodes of the given response length stays within the budget.

        Args:
            rows: Nodes.
            length: Response tokens in each.
            judged: Calls of a process reward model that have to be paid as well, on responses one token longer.
        """
        limit = self.budget
        cost = rows * self._row_cost(length) + (judged * self._judge_cost(length + 1) if judged else 0.0)
        return (
            (limit.max_seconds is None or self.seconds < limit.max_seconds)
            and (
                limit.max_reward_calls is None
                or self.reward_calls + rows * self._calls_per_row + judged <= limit.max_reward_calls
            )
            and (limit.max_tflops is None or self.tflops + cost <= limit.max_tflops)
        )

    def width(self, wanted: int, length: int, steps: int) -> int:
        """The width that lets `steps` more steps fit, for `on_exhausted="narrow"`.

        Args:
            wanted: The width that the user set.
            length: Response tokens so far.
            steps: Steps that the answer may still take.

        Returns:
            Between 1 and `wanted`; `wanted` for the other behaviours.
        """
        limit = self.budget
        if limit.on_exhausted != "narrow" or steps < 1:
            return wanted
        fits = [float(wanted)]
        # a search that asks a process reward model does so once a row
        calls = self._calls_per_row + self._judges
        if limit.max_reward_calls is not None and calls:
            fits.append((limit.max_reward_calls - self.reward_calls) / (steps * calls))
        if limit.max_tflops is not None:
            # attention grows with the length: the mean of the steps to come is that of the middle one
            middle = length + (steps + 1) // 2
            mean = self._row_cost(middle) + self._judge_cost(middle)
            if mean > 0:
                fits.append((limit.max_tflops - self.tflops) / (steps * mean))
        if limit.max_seconds is not None and self._rows and self._searching_since is not None:
            pace = (self._clock() - self._searching_since) / self._rows
            if pace > 0:
                fits.append((limit.max_seconds - self.seconds) / (steps * pace))
        return max(1, min(wanted, int(min(fits))))
