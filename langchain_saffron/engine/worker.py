"""The engine's one thread."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from langchain_saffron.engine.request import Failed, Request
from langchain_saffron.engine.scheduler import Scheduler
from langchain_saffron.errors import EngineClosedError

logger = logging.getLogger(__name__)

R = TypeVar("R")
Task = tuple[Callable[[], Any], "Future[Any]"]


class Worker:
    """Runs a scheduler on a daemon thread, which starts with the first request.

    torch forwards from two threads at once are many times slower than one after the other on few cores, so
    there is exactly one.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._inbox: queue.SimpleQueue[Request | Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: Request) -> None:
        """Hand a request over.

        Raises:
            EngineClosedError: The engine was closed.
        """
        self._put(request)

    def call(self, function: Callable[[], R]) -> R:
        """Run `function` on the thread, between two steps, and wait for it.

        Raises:
            EngineClosedError: The engine was closed.
        """
        future: Future[R] = Future()
        self._put((function, future))
        return future.result()

    def close(self) -> None:
        """Stop the thread after its current step; what is still running fails."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            self._inbox.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=30)

    def _put(self, item: Request | Task) -> None:
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed: load a new one")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="saffron-engine", daemon=True)
                self._thread.start()
            self._inbox.put(item)

    def _run(self) -> None:
        scheduler = self._scheduler
        while True:
            try:
                while not (scheduler.busy and self._inbox.empty()):
                    item = self._inbox.get()
                    if item is None:
                        self._end()
                        return
                    if isinstance(item, tuple):
                        _do(*item)
                    else:
                        scheduler.admit(item)
                scheduler.tick()
            except Exception as error:
                # a bug of ours must reach the callers, not hang them
                logger.exception("the engine's step failed")
                scheduler.fail_all(error)

    def _end(self) -> None:
        error = EngineClosedError("the engine was closed while the request ran")
        self._scheduler.fail_all(error)
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, tuple):
                item[1].set_exception(error)
            elif item is not None:
                item.send(Failed(error))


def _do(function: Callable[[], Any], future: "Future[Any]") -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
