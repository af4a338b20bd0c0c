"""Whether any replica is there, as Serve lets requests wait for the next one without an end."""

import asyncio
import math
import os
import time
from collections.abc import Callable

from langchain_saffron.errors import SettingsError
from langchain_saffron.extras import REPLICAS

# names the variable with the seconds that a request waits while there is no replica, and how many those are without it:
# replicas of small models have started again by then
MAX_WAIT = "SAFFRON_PROXY_WAIT"
WAIT = 30.0
# seconds between two questions to Serve, for all requests together, and for an answer
LOOK, ANSWERED_IN = 1.0, 5.0


class Standing:
    """What a proxy knows of the replicas; lives on its event loop."""

    def __init__(self, ask: Callable[[], bool] | None = None) -> None:
        """Nobody was asked yet.

        Args:
            ask: Says whether any replica is there, in a thread of its own; `None` asks Serve.
        """
        self._ask = ask or any_replica
        self._asking: asyncio.Task[bool] | None = None
        self._asked = 0.0
        self._wait = max_wait()

    async def none_for_long(self) -> None:
        """Return when a request that begins to wait now has waited long enough, and no replica is there for it."""
        await asyncio.sleep(self._wait)
        while await self._any():
            await asyncio.sleep(LOOK)

    async def _any(self) -> bool:
        """One question for all that want to know within a moment; where there is no answer, a replica may be there."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked >= LOOK):
            self._asked = time.monotonic()
            self._asking = asyncio.create_task(asyncio.to_thread(self._ask))
        try:
            # whoever stops waiting does not take the question from the others
            return await asyncio.wait_for(asyncio.shield(self._asking), ANSWERED_IN)
        except Exception:
            return True


def max_wait() -> float:
    """Seconds that a request waits while there is no replica.

    Raises:
        SettingsError: The variable says something else.
    """
    said = os.environ.get(MAX_WAIT) or str(WAIT)
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise SettingsError(f"{MAX_WAIT}: seconds are needed, 0 or more, not {said!r}")
    return seconds


def any_replica() -> bool:
    """Whether Serve has a replica, of any application, that may have requests: one that does more than start."""
    serve = REPLICAS.load("ray.serve")
    states = [
        deployment.replica_states
        for application in serve.status().applications.values()
        for deployment in application.deployments.values()
    ]
    return any(count for found in states for state, count in found.items() if state != "STARTING")
