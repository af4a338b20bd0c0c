"""The engine's one thread."""

import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from langchain_saffron.engine.request import Failed, Request
from langchain_saffron.engine.scheduler import Scheduler
from langchain_saffron.engine.step_scorer import typed_error
from langchain_saffron.errors import EngineBusyError, EngineClosedError, EngineFailedError
from langchain_saffron.runtime.contention import ContentionWatch
from langchain_saffron.runtime.forks import renew_after_fork
from langchain_saffron.runtime.garbage import CollectionWatch
from langchain_saffron.runtime.threads import disband

logger = logging.getLogger(__name__)

R = TypeVar("R")
Task = tuple[Callable[[], Any], "Future[Any]"]


class Worker:
    """Runs a scheduler on a daemon thread, which starts with the first request.

    torch forwards from two threads at once are many times slower than one after the other on few cores, so
    there is exactly one. Should it end by an error, whoever waits for it is told so, and the next call starts
    another; a forked child, which has none of its parent's threads, starts one of its own.

    Attributes:
        rejections: Requests that were turned away, by reason.
    """

    def __init__(self, scheduler: Scheduler, max_queue: int) -> None:
        """Nothing runs yet.

        Args:
            scheduler: What it advances.
            max_queue: How many requests may wait.
        """
        self._scheduler = scheduler
        self._max_queue = max_queue
        self.rejections: Counter[str] = Counter()
        self._closed = False
        self._unusable: str | None = None
        self._tasks: deque[Task] = deque()
        self._watch = ContentionWatch(scheduler.on_cpu)
        self._collections = CollectionWatch()
        self._begin()
        renew_after_fork(self)

    def _begin(self) -> None:
        self._inbox: queue.SimpleQueue[Request | Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._tasks.clear()

    def renew(self) -> None:
        """In a forked child: the thread, and what it was doing, are the parent's."""
        self._begin()
        if self._scheduler.on_cpu:
            self._scheduler.reset()
        else:
            self._unusable = (
                "this process was forked from one that had loaded the engine on an accelerator, which does not survive "
                "that: load the engine in the child, or start processes by spawn"
            )

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on that thread."""
        return threading.current_thread() is self._thread

    @property
    def collecting(self) -> float:
        """For how many seconds the thread has been busy with what a garbage collection has it do; 0 where it is not."""
        return self._collections.seconds

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""
        return self._closed

    @property
    def waiting(self) -> int:
        """Requests that have not begun, or pause."""
        return self._scheduler.waiting + self._inbox.qsize()

    def submit(self, request: Request) -> None:
        """Hand a request over.

        Raises:
            EngineBusyError: As many as may wait do so already.
            EngineClosedError: The engine was closed.
            EngineFailedError: It cannot be used in this process.
        """
        waiting = self.waiting
        if waiting >= self._max_queue and not self._closed:
            self.rejections["queue_full"] += 1
            raise EngineBusyError(
                f"{waiting} requests wait for the engine already: ask again later, or allow more of them by max_queue="
            )
        self._put(request)

    def call(self, function: Callable[[], R]) -> R:
        """Run `function` on the thread, between two steps, and wait for it. On the thread itself it runs at once.

        Raises:
            EngineClosedError: The engine was closed.
            EngineFailedError: It cannot be used in this process.
        """
        if self.is_current:
            return function()
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
        # with a second team in the process, the engine's would no longer wait actively
        disband()
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed: load a new one")
            if self._unusable:
                raise EngineFailedError(self._unusable)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="saffron-engine", daemon=True)
                self._thread.start()
            self._inbox.put(item)

    def _run(self) -> None:
        try:
            with self._collections.watching():
                while self._round():
                    pass
        except BaseException as error:
            logger.critical("the engine's thread ended", exc_info=True)
            self._die(error)
        finally:
            self._watch.close()

    def _round(self) -> bool:
        """Take in what has come, run one task, advance the requests; `False` at the end."""
        scheduler = self._scheduler
        idle = not (scheduler.busy or self._tasks)
        if idle:
            # another engine of the process, or what else computes there, may wait actively meanwhile
            disband()
        while idle or not self._inbox.empty():
            idle = False
            item = self._inbox.get()
            if item is None:
                self._end(EngineClosedError("the engine was closed while the request ran"))
                return False
            if isinstance(item, tuple):
                self._tasks.append(item)
            else:
                scheduler.admit(item)
        # one a round: whoever calls without a pause must not keep requests from their steps
        if self._tasks:
            _do(*self._tasks.popleft())
        try:
            self._watch.look()
            scheduler.tick()
        except Exception as error:
            # a bug of ours must reach the callers, not hang them
            logger.exception("the engine's step failed")
            scheduler.fail_all(typed_error(error))
            scheduler.reset()
        return True

    def _end(self, error: BaseException) -> None:
        """Fail whatever is there."""
        self._scheduler.fail_all(error)
        while self._tasks:
            self._tasks.popleft()[1].set_exception(error)
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, tuple):
                item[1].set_exception(error)
            elif item is not None:
                item.send(Failed(error))

    def _die(self, error: BaseException) -> None:
        """Tell everybody, and leave all such that the next call can start a thread."""
        failure = EngineFailedError(f"the engine's thread ended ({type(error).__name__}: {error}); ask again")
        failure.__cause__ = error
        with self._lock:
            try:
                self._end(failure)
                self._scheduler.reset()
            finally:
                self._thread = None


def _do(function: Callable[[], Any], future: "Future[Any]") -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
