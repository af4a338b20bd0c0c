"""What a request has spent of its compute budget, and what it can still afford."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

from langchain_saffron.errors import BudgetError
from langchain_saffron.search.node import Node
from langchain_saffron.settings import ComputeBudget


class BudgetMeter:
    """Counts what a request has spent and says what it can still afford.

    The engine books what the search asks for; the search asks what it can afford. TFLOP count as if nothing were
    cached: else the same request would get another answer where others have left its prompt in the cache. What was
    really spent, in `SearchStats`, is that at most, but for what a full cache makes a request compute twice.

    TFLOP and reward calls of a step are known before it runs, so these limits are never exceeded; seconds are, by one
    step at most, and so is TFLOP where a process reward model reads what it has not read before.

    Attributes:
        limits: What it may spend.
        tflops: Spent so far, as if nothing were cached; counted only where it is limited.
        reward_calls: Sequences scored by a reward model so far.
    """

    def __init__(
        self,
        limits: ComputeBudget | None = None,
        row_cost: Callable[[int], float] | None = None,
        later_cost: float = 0.0,
        calls_per_row: int = 0,
        prm_cost: Callable[[int], float] | None = None,
        prm_row_cost: Callable[[int], float] | None = None,
        prm_each_row: bool = True,
        prompt_cost: Callable[[], float] | None = None,
        least_width: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Nothing is spent yet; the clock starts now.

        Args:
            limits: What it may spend; `None` for no limits.
            row_cost: TFLOP of scoring one node whose response length is given, in all models.
            later_cost: The part of it that is at most spent once the search has the node's scores: rewards are computed
                for its candidates alone.
            calls_per_row: Reward calls that scoring one node takes.
            prm_cost: TFLOP of one call of a process reward model on a response of the given length, where the search
                asks one.
            prm_row_cost: TFLOP for which it reads one more token, below a response of the given length.
            prm_each_row: Whether it is asked about once a scored node, rather than now and then.
            prompt_cost: TFLOP of reading the prompt in all models, its last token's scores aside.
            least_width: The width below which it narrows no search, whatever the limits.
            clock: Seconds, monotonic.
        """
        self.limits = limits or ComputeBudget()
        self.tflops = 0.0
        self.reward_calls = 0
        self._row_cost = row_cost or (lambda length: 0.0)
        self._later_cost = later_cost
        self._calls_per_row = calls_per_row
        self._prm_cost = prm_cost or (lambda length: 0.0)
        self._prm_row_cost = prm_row_cost or (lambda length: 0.0)
        self._prm_each_row = prm_each_row and prm_cost is not None
        self._prompt_cost = prompt_cost or (lambda: 0.0)
        self._prm_read: set[Node] = set()
        self._least_width = least_width
        self._clock = clock
        self._start = clock()
        self._rows = 0
        self._later, self._later_rows = 0.0, 0
        # what looks now and then have cost
        self._looks, self._look_calls, self._all_rows = 0.0, 0, 0
        self._searching_since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the meter was made."""
        return self._clock() - self._start

    def begin(self) -> None:
        """Book the prompt.

        Raises:
            BudgetError: The budget does not even cover that.
        """
        limit = self.limits.max_tflops
        if limit is None:
            return
        self.tflops = self._prompt_cost()
        needed = self.tflops + self._row_cost(0)
        if needed > limit:
            raise BudgetError(f"max_tflops={limit:g} does not cover the prompt, which takes {needed:g} TFLOP")

    def book(self, nodes: Sequence[Node], prm_nodes: Sequence[Node] = ()) -> None:
        """Book what a search asked for and has got: scored nodes, and those that a process reward model scored."""
        # every step of every request comes by here
        cost = 0.0
        if self.limits.max_tflops is not None:
            cost = sum(self._row_cost(node.length) - self._later_cost for node in dict.fromkeys(nodes))
            looks, read = self._look_costs(prm_nodes)
            self._prm_read |= read
            cost += sum(looks)
            self._looks += sum(looks)
        self._look_calls += len(prm_nodes)
        self._all_rows += len(nodes)
        self.spend(cost, len(nodes) * self._calls_per_row + len(prm_nodes), rows=len(nodes))

    def _look_costs(self, prm_nodes: Sequence[Node]) -> tuple[list[float], set[Node]]:
        """TFLOP of a process reward model for each of some nodes, one after the other, and what it reads for them."""
        costs, read = [], set[Node]()
        for node in dict.fromkeys(prm_nodes):
            cost = self._prm_cost(node.length)
            above = node.parent
            while above is not None and above.parent is not None and not (above in self._prm_read or above in read):
                cost += self._prm_row_cost(above.length)
                read.add(above)
                above = above.parent
            read.add(node)
            costs.append(cost)
        return costs, read

    def covers(self, prm_nodes: Sequence[Node]) -> int:
        """How many of some nodes, all different, a process reward model may still score, one after the other.

        Whatever the clock says: a search that is out of time has to look at what it gives out all the same.
        """
        limits, count = self.limits, len(prm_nodes)
        if limits.max_reward_calls is not None:
            count = max(0, min(count, limits.max_reward_calls - self.reward_calls))
        if limits.max_tflops is not None:
            spent = list(accumulate(self._look_costs(prm_nodes[:count])[0], initial=self.tflops))[1:]
            count = sum(one <= limits.max_tflops for one in spent)
        return count

    def spend(self, tflops: float = 0.0, reward_calls: int = 0, rows: int = 0) -> None:
        """Book what a forward cost; `rows` counts scored nodes, for the pace that `narrow` needs."""
        self.tflops += tflops
        self.reward_calls += reward_calls
        if self._searching_since is None:
            if rows:
                # the prompt's own forward says nothing about the pace of a step
                self._searching_since = self._clock()
        else:
            self._rows += rows

    def spend_later(self, tflops: float, rows: int) -> None:
        """Book what a search had computed of `rows` nodes when it had their scores."""
        self.tflops += tflops
        self._later += tflops
        self._later_rows += rows

    def affords(self, rows: int, length: int, prm_calls: int = 0, prm_nodes: Sequence[Node] = ()) -> bool:
        """Whether scoring `rows` nodes of the given response length stays within the budget.

        Args:
            rows: Nodes.
            length: Response tokens in each.
            prm_calls: Calls of a process reward model that have to be paid as well, on responses one token longer.
            prm_nodes: Nodes, all different, that it has to be asked about as well, or about one below each.
        """
        limits = self.limits
        cost = rows * self._row_cost(length) + (prm_calls * self._prm_cost(length + 1) if prm_calls else 0.0)
        if prm_nodes and limits.max_tflops is not None:
            # the question stands one token further on, and costs no less there
            below = len(prm_nodes) * (self._prm_row_cost(length) + self._prm_cost(length + 1) - self._prm_cost(length))
            cost += sum(self._look_costs(prm_nodes)[0]) + below
        prm_calls += len(prm_nodes)
        return (
            (limits.max_seconds is None or self.seconds < limits.max_seconds)
            and (
                limits.max_reward_calls is None
                or self.reward_calls + rows * self._calls_per_row + prm_calls <= limits.max_reward_calls
            )
            and (limits.max_tflops is None or self.tflops + cost <= limits.max_tflops)
        )

    def width(self, requested: int, length: int, steps: int) -> int:
        """The width that lets `steps` more steps fit, for `on_exhausted="narrow"`.

        Args:
            requested: The width that the user set.
            length: Response tokens so far.
            steps: Steps that the answer may still take.

        Returns:
            Between the least width, 1 where none is set, and `requested`; `requested` for the other behaviours.
        """
        limits = self.limits
        if limits.on_exhausted != "narrow" or steps < 1:
            return requested
        fits = [float(requested)]
        # one that is asked now and then will be as often as it was
        looks = 0.0 if self._prm_each_row or not self._all_rows else self._look_calls / self._all_rows
        calls = self._calls_per_row + self._prm_each_row + looks
        if limits.max_reward_calls is not None and calls:
            fits.append((limits.max_reward_calls - self.reward_calls) / (steps * calls))
        if limits.max_tflops is not None:
            # attention grows with the length: the mean of the steps to come is that of the middle one
            middle = length + (steps + 1) // 2
            mean = self._row_cost(middle)
            if self._prm_each_row:
                mean += self._prm_cost(middle)
            elif self._all_rows:
                mean += self._looks / self._all_rows
            if self._later_rows:
                mean += self._later / self._later_rows - self._later_cost
            if mean > 0:
                fits.append((limits.max_tflops - self.tflops) / (steps * mean))
        if limits.max_seconds is not None and self._rows and self._searching_since is not None:
            pace = (self._clock() - self._searching_since) / self._rows
            if pace > 0:
                fits.append((limits.max_seconds - self.seconds) / (steps * pace))
        return min(requested, max(self._least_width, int(min(fits))))
