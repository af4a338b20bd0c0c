"""How much the server has to do, and whether it is going to stop."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from langchain_saffron.server.errors import ApiError, busy


class Load:
    """The requests that were let in; lives on the event loop's thread.

    Attributes:
        requests: How many there are.
        draining: Whether no more are let in, as the server stops.
        expired: Set where those that are still there have to end.
        rejections: How many were turned away, by reason.
    """

    def __init__(self, most: int) -> None:
        """Nothing to do yet.

        Args:
            most: Requests that may run and wait.
        """
        self._most = most
        self.requests = 0
        self.draining = False
        self.expired = asyncio.Event()
        self.rejections: Counter[str] = Counter()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request.

        Raises:
            ApiError: 503, there is none.
        """
        if self.draining:
            raise self.turned_away("draining", self.stopping())
        if self.requests >= self._most:
            raise self.turned_away("queue_full", busy("too many requests wait already: ask again later", "overloaded"))
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def turned_away(self, reason: str, error: ApiError) -> ApiError:
        """Book that a request is answered by this error."""
        self.rejections[reason] += 1
        return error

    @staticmethod
    def stopping() -> ApiError:
        """What requests are told while the server stops."""
        return busy("the server is shutting down: ask another, or again later", "shutting_down")
