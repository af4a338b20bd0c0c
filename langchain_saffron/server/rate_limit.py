"""How often one tenant may ask."""

import time
from collections import OrderedDict
from collections.abc import Callable

# tenants that are remembered; whoever has not asked for long is forgotten first
MANY = 10_000


class RateLimit:
    """A bucket of requests for each tenant, which fills again at an even pace."""

    def __init__(self, a_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has asked yet.

        Args:
            a_minute: Requests a minute, all of which may come at once; `None` for any number.
            clock: Seconds.
        """
        self._a_minute = a_minute
        self._clock = clock
        # tenant: requests left, and when that was so
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, tenant: str) -> float:
        """Book a request.

        Returns:
            0 where it may pass, else the seconds until one may.
        """
        if self._a_minute is None:
            return 0.0
        now = self._clock()
        left, then = self._left.pop(tenant, (float(self._a_minute), now))
        left = min(float(self._a_minute), left + (now - then) * self._a_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self._a_minute
        self._left[tenant] = (left if wait else left - 1, now)
        if len(self._left) > MANY:
            self._left.popitem(last=False)
        return wait
