"""Where a request's events arrive: a blocking queue, or an event loop."""

import asyncio
import queue
import threading
from collections.abc import Iterator

from langchain_saffron.engine.request import Done, Event, Failed
from langchain_saffron.engine.result import SearchResult


class Handle:
    """The caller's end of a request, for threads.

    Attributes:
        cancelled: Set it to stop the request within a step.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def put(self, event: Event) -> None:
        """Deliver an event; called on the engine's thread."""
        self._queue.put(event)

    def events(self) -> Iterator[str | SearchResult]:
        """Text as it becomes final, then the result. Closing it cancels the request."""
        try:
            ended = False
            while not ended:
                item = _open(self._queue.get())
                ended = isinstance(item, SearchResult)
                yield item
        finally:
            self.cancelled.set()

    def result(self) -> SearchResult:
        """Wait for the result."""
        last: str | SearchResult = ""
        for last in self.events():
            pass
        assert isinstance(last, SearchResult)
        return last


class AsyncHandle:
    """The caller's end of a request, for one event loop.

    Attributes:
        cancelled: Set it to stop the request within a step.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = threading.Event()
        self._loop = loop
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Deliver an event; called on the engine's thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def receive(self) -> str | SearchResult:
        """The next piece of text that became final, or at the end the result."""
        return _open(await self._queue.get())


def _open(event: Event) -> str | SearchResult:
    if isinstance(event, Failed):
        raise event.error
    return event.result if isinstance(event, Done) else event.text
