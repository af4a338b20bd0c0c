"""One compute budget over several calls, such as the steps of an agent."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self, TypeVar

from langchain_saffron.errors import BudgetError, SettingsError
from langchain_saffron.runtime.forks import ForkSafeLock
from langchain_saffron.settings import ComputeBudget, OnExhausted

if TYPE_CHECKING:
    from langchain_saffron.engine import SearchStats

Number = TypeVar("Number", int, float)

# the default first: what somebody has asked for wins over it
_STRICTNESS: tuple[OnExhausted, ...] = ("narrow", "stop", "refuse")


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of compute; `None` where there is no limit.

    Attributes:
        tflops: Forward TFLOP.
        seconds: Wall-clock seconds.
        reward_calls: Sequences scored by a reward model.
    """

    tflops: float | None = None
    seconds: float | None = None
    reward_calls: int | None = None


def smaller(first: ComputeBudget, second: ComputeBudget) -> ComputeBudget:
    """The budget that keeps within both: the smaller of each limit, and the stricter end.

    `"refuse"` is stricter than `"stop"`, and that than `"narrow"`.
    """
    return ComputeBudget(
        max_tflops=_least(first.max_tflops, second.max_tflops),
        max_seconds=_least(first.max_seconds, second.max_seconds),
        max_reward_calls=_least(first.max_reward_calls, second.max_reward_calls),
        on_exhausted=max(first.on_exhausted, second.on_exhausted, key=_STRICTNESS.index),
    )


class Share:
    """What one call may spend. Settle it when the call has ended, or use it in a `with` statement.

    A share that is never settled, or left without, counts as wholly spent.

    Attributes:
        budget: The limits of the call.
    """

    def __init__(self, budget: ComputeBudget, book: Callable[["Share", float, int], None]) -> None:
        """Made by `SharedBudget.take`."""
        self.budget = budget
        self._book = book

    def settle(self, stats: "SearchStats | Mapping[str, Any] | None" = None) -> None:
        """Book what the call has really spent; the rest is free for later calls. Only the first time counts.

        Args:
            stats: Of the call's result, or `response_metadata["saffron"]`; `None` books the whole share.
        """
        if stats is None:
            self._book(self, self.budget.max_tflops or 0.0, self.budget.max_reward_calls or 0)
        else:
            self._book(self, float(stats["tflops"] or 0.0), int(stats["reward_calls"] or 0))

    def release(self) -> None:
        """Give all of it back: the call has spent nothing."""
        self._book(self, 0.0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.settle()


class SharedBudget:
    """Splits a `ComputeBudget` over several calls, from any number of threads.

    Every call gets an equal part of what is left for the calls that are left; what one leaves over is the later ones'.
    The parts of calls that run at the same time are reserved, so that together they cannot exceed the budget.

    Seconds are a deadline, counted on the wall clock from the first `take`: the time between two calls, such as a
    tool's, counts as well, and that of calls at the same time counts once. A call's part of them is what is left until
    the deadline, divided by the calls that are left.

    Example:
        ```python
        from langchain_saffron import ComputeBudget, SaffronEngine, SearchSettings
        from langchain_saffron.shared_budget import SharedBudget

        engine = SaffronEngine.from_pretrained()
        prompt_ids = engine.tokenizer.encode("Hello!")
        shared = SharedBudget(ComputeBudget(max_tflops=2.0), calls=10)
        with shared.take() as share:
            result = engine.generate(prompt_ids, settings=SearchSettings(budget=share.budget))
            share.settle(result.stats)
        print(shared.spent, shared.left)
        ```

    Attributes:
        budget: The limits of all calls together.
        calls: How many calls they are meant for; later ones get what is left. `None`: every call may spend everything
            that is left, so that two can run at the same time only where a limit of their own bounds them.
    """

    def __init__(
        self, budget: ComputeBudget, calls: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Set the limits.

        Args:
            budget: The limits; at least one has to be set.
            calls: Between how many calls they are divided.
            clock: Seconds.

        Raises:
            SettingsError: The budget limits nothing, or there is no call to divide it between.
        """
        if not budget.limited:
            raise SettingsError("a shared budget needs a limit: set max_tflops, max_seconds or max_reward_calls")
        if calls is not None and calls < 1:
            raise SettingsError(f"calls: at least 1, or None for no division (got {calls})")
        self.budget = budget
        self.calls = calls
        self._clock = clock
        self._lock = ForkSafeLock()
        self._start: float | None = None
        self._taken = 0
        self._out: set[Share] = set()
        # exact: rounding must not make the parts add up to more than the whole
        self._tflops = Fraction(0)
        self._reward_calls = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # copies of a chat model still share one budget
        return self

    @property
    def spent(self) -> Amount:
        """What settled calls have spent, and the seconds since the first `take`."""
        with self._lock:
            return Amount(float(self._tflops), self._elapsed(), self._reward_calls)

    @property
    def left(self) -> Amount:
        """What can still be taken: neither spent nor reserved by a call that runs."""
        with self._lock:
            tflops, seconds, reward_calls = self._left()
            return Amount(None if tflops is None else _rounded_down(tflops), seconds, reward_calls)

    def take(self, own: ComputeBudget | None = None) -> Share:
        """A part for the next call.

        Args:
            own: The call's own limits; the smaller ones win, and only they are reserved.

        Returns:
            A share whose `budget` is what the call may spend.

        Raises:
            BudgetError: Nothing is left.
        """
        with self._lock:
            if self._start is None:
                self._start = self._clock()
            part = self._part()
            share = Share(part if own is None else smaller(part, own), self._settle)
            self._out.add(share)
            self._taken += 1
            return share

    def _part(self) -> ComputeBudget:
        tflops, seconds, reward_calls = self._left()
        calls = 1 if self.calls is None else max(1, self.calls - self._taken)
        part = Amount(
            None if tflops is None else _rounded_down(tflops / calls),
            None if seconds is None else seconds / calls,
            # one at least while there is one: it takes that to score a prompt
            None if reward_calls is None else min(reward_calls, max(1, reward_calls // calls)),
        )
        named = {"TFLOP": part.tflops, "seconds": part.seconds, "reward calls": part.reward_calls}
        if missing := [name for name, value in named.items() if value == 0]:
            raise BudgetError(self._nothing_left(missing))
        return ComputeBudget(
            max_tflops=part.tflops,
            max_seconds=part.seconds,
            max_reward_calls=part.reward_calls,
            on_exhausted=self.budget.on_exhausted,
        )

    def _left(self) -> tuple[Fraction | None, float | None, int | None]:
        limit, out = self.budget, [share.budget for share in self._out]
        tflops, seconds, reward_calls = None, limit.max_seconds, limit.max_reward_calls
        if limit.max_tflops is not None:
            reserved = sum((Fraction(one.max_tflops or 0) for one in out), self._tflops)
            tflops = max(Fraction(0), Fraction(limit.max_tflops) - reserved)
        if seconds is not None:
            seconds = max(0.0, seconds - self._elapsed())
        if reward_calls is not None:
            reward_calls = max(0, reward_calls - self._reward_calls - sum(one.max_reward_calls or 0 for one in out))
        return tflops, seconds, reward_calls

    def _elapsed(self) -> float:
        return 0.0 if self._start is None else self._clock() - self._start

    def _settle(self, share: Share, tflops: float, reward_calls: int) -> None:
        with self._lock:
            if share in self._out:
                self._out.remove(share)
                self._tflops += Fraction(tflops)
                self._reward_calls += reward_calls

    def _nothing_left(self, missing: list[str]) -> str:
        running = f", {len(self._out)} of them not settled yet" if self._out else ""
        hint = (
            "; divide it (calls=), or give calls at the same time limits of their own"
            if self._out and self.calls is None
            else ""
        )
        return (
            f"the shared budget ({_shown(self.budget)}) has no {' and no '.join(missing)} left after {self._taken} "
            f"calls{running}{hint}"
        )


def _shown(budget: ComputeBudget) -> str:
    limits = budget.model_dump(exclude={"on_exhausted"}, exclude_none=True)
    return ", ".join(f"{name}={value:g}" for name, value in limits.items())


def _least(first: Number | None, second: Number | None) -> Number | None:
    given = [value for value in (first, second) if value is not None]
    return min(given) if given else None


def _rounded_down(value: Fraction) -> float:
    nearest = float(value)
    return math.nextafter(nearest, 0.0) if Fraction(nearest) > value else nearest
