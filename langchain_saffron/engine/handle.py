"""Where a request's events arrive: a blocking queue, or an event loop."""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator

from langchain_saffron.engine.request import Done, Event, Failed
from langchain_saffron.engine.result import SearchResult
from langchain_saffron.engine.scheduler import TIMED_OUT
from langchain_saffron.engine.worker import Worker
from langchain_saffron.errors import EngineFailedError, ReentrantCallError, RequestTimeoutError

# seconds between looks at whether the engine lives, and beyond the deadline before the caller gives up by itself
LOOK = 5.0
GRACE = 0.25


class Handle:
    """The caller's end of a request, for threads.

    Attributes:
        cancelled: Set it to stop the request within a step.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._last: Event | None = None
        self._worker: Worker | None = None
        self._deadline: float | None = None

    def watch(self, worker: Worker, deadline: float | None) -> None:
        """Say on whom it waits, and until when (a reading of `time.perf_counter`)."""
        self._worker, self._deadline = worker, deadline

    def put(self, event: Event) -> None:
        """Deliver an event; called on the engine's thread."""
        self._queue.put(event)

    def events(self) -> Iterator[str | SearchResult]:
        """Text as it becomes final, then the result, which later calls give again. Closing it cancels the request.

        Raises:
            ReentrantCallError: The caller is the engine's own thread, which would wait for itself.
            RequestTimeoutError: The request's timeout passed, also where the engine is too busy to say so.
            EngineFailedError: The engine failed.
        """
        try:
            if self._worker is not None and self._worker.is_current:
                raise ReentrantCallError(
                    "a request from the engine's own thread, within engine.call, would wait for itself: make it outside"
                )
            while not isinstance(self._last, Done | Failed):
                event = self._next()
                if isinstance(event, Done | Failed):
                    self._last = event
                else:
                    yield _open(event)
            yield _open(self._last)
        finally:
            self.cancelled.set()

    def _next(self) -> Event:
        """The next event; while there is none, look now and then whether there can be one."""
        while True:
            left = None if self._deadline is None else self._deadline + GRACE - time.perf_counter()
            try:
                return self._queue.get(timeout=LOOK if left is None else max(0.0, min(left, LOOK)))
            except queue.Empty:
                if left is not None and left <= 0:
                    raise RequestTimeoutError(TIMED_OUT) from None
                if self._worker is not None and not self._worker.alive and self._queue.empty():
                    raise EngineFailedError("the engine's thread is gone: ask again") from None
                if self._worker is not None and self._worker.collecting > LOOK:
                    raise EngineFailedError(
                        "the engine's thread waits: the garbage collector has it end something that nobody closed, a "
                        "stream that was not read to its end, say, which may wait for this answer. Ask again, and "
                        "close what you do not read"
                    ) from None

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
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, worker: Worker, deadline: float | None) -> None:
        """Say on whom it waits, and until when (a reading of `time.perf_counter`)."""
        if deadline is not None:
            # from whatever thread
            self._loop.call_soon_threadsafe(self._start_timer, deadline + GRACE)

    def close(self) -> None:
        """Stop the request within a step, if it still runs."""
        self.cancelled.set()
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self, end: float) -> None:
        if not self.cancelled.is_set():
            late = Failed(RequestTimeoutError(TIMED_OUT))
            self._timer = self._loop.call_later(max(0.0, end - time.perf_counter()), self._queue.put_nowait, late)

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
