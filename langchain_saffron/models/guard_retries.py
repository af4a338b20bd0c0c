"""Asking a guard again when it fails, so that nothing but a number that it gave becomes a reward."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from langchain_saffron.errors import GuardFailedError, SaffronError

# seconds between two attempts, at most
_LONGEST_WAIT = 60.0


class Retries:
    """How often a guard that fails is asked again, and what has happened so far.

    Attributes:
        attempts: How often a text is given to it at most.
        wait: Seconds before the second attempt; each further one waits twice as long.
        skip: Whether a text that got no reward is left out (its reward is NaN), instead of ending the work.
        counts: Of `errors` (calls that raised), `wrong_count` (calls that gave more or fewer rewards than texts),
            `not_a_number` (rewards that were none), `retried` and `skipped` (texts).
    """

    def __init__(self, attempts: int = 4, wait: float = 1.0, skip: bool = False) -> None:
        self.attempts = max(1, attempts)
        self.wait = wait
        self.skip = skip
        self.counts: Counter[str] = Counter()

    def rewards(self, ask: Callable[[list[Any]], Sequence[Any]], texts: Sequence[Any], name: str) -> list[float]:
        """The rewards of some texts; those that failed are asked for again, the others are kept.

        Args:
            ask: From texts to a reward each. Errors of this package that no later call mends are not caught.
            texts: What is scored.
            name: What the error calls the guard.

        Returns:
            A finite number each; with `skip`, NaN where there was none.

        Raises:
            GuardFailedError: There was none after the last attempt.
        """
        found = [math.nan] * len(texts)
        missing = list(range(len(texts)))
        problem = ""
        for attempt in range(self.attempts):
            if attempt:
                self.counts["retried"] += len(missing)
                time.sleep(min(_LONGEST_WAIT, self.wait * 2 ** (attempt - 1)))
            values, problem = self._ask(ask, [texts[i] for i in missing])
            for i, value in zip(missing, values, strict=True):
                found[i] = value
            missing = [i for i in missing if math.isnan(found[i])]
            if not missing:
                return found
        if not self.skip:
            raise GuardFailedError(
                f"{name} gave no reward for {len(missing)} of {len(texts)} texts in {self.attempts} attempts: "
                f"{problem} (run again to go on, or skip what fails: skip_failed=True)"
            )
        self.counts["skipped"] += len(missing)
        return found

    def _ask(self, ask: Callable[[list[Any]], Sequence[Any]], texts: list[Any]) -> tuple[list[float], str]:
        """A number or NaN for every text, and what was wrong."""
        nothing = [math.nan] * len(texts)
        try:
            values = list(ask(texts))
        except Exception as error:
            if isinstance(error, SaffronError) and not error.is_retryable:
                raise
            self.counts["errors"] += 1
            return nothing, f"{type(error).__name__}: {error}"
        if len(values) != len(texts):
            self.counts["wrong_count"] += 1
            return nothing, f"it returned {len(values)} rewards for {len(texts)} texts"
        numbers = [_number(value) for value in values]
        odd = [value for value, number in zip(values, numbers, strict=True) if math.isnan(number)]
        self.counts["not_a_number"] += len(odd)
        return numbers, f"it returned {odd[0]!r} for a reward" if odd else ""


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan
