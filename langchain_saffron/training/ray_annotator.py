"""Annotation over Ray: worker processes make the rows of shards, and this process alone writes them.

A shard is what is handed out, and what is lost with a worker that dies: another one makes it again. Rows depend on
nothing but the records and the models, so that the files are the same to the byte as those of one process.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from langchain_saffron.errors import SaffronError, TrainingError
from langchain_saffron.runtime.ray_cluster import share
from langchain_saffron.training.annotator import Annotator, Progress, Report
from langchain_saffron.training.corpus import Record
from langchain_saffron.training.shards import Row

logger = logging.getLogger(__name__)

# workers that die over one and the same piece of work before it is to blame
TRIES = 3

Load = Callable[[], Annotator]
# a worker that has still to load its models has no shard
Task = tuple[int, list[Record]] | None


class RayAnnotator:
    """Annotators in other processes; see `annotate.Worker`. A context, at whose end they are stopped."""

    def __init__(self, load: Load, workers: int, device: str | None = None) -> None:
        """Start the workers, in the Ray that was started before.

        Args:
            load: Makes an annotator, in a worker's process: a function of a module, or a `functools.partial` of one.
            workers: How many. Where the cluster has no room for all, fewer work.
            device: What they compute on, where that was said.
        """
        self._load = load
        self._resources = share(workers, device)
        # what is awaited, and of whom
        self._tasks: dict[Any, tuple[ActorHandle, Task]] = {}
        self._failures: dict[str, int] = {}
        for _ in range(workers):
            self._start()
        self._idle: list[ActorHandle] = []

    def __enter__(self) -> "RayAnnotator":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in [*(worker for worker, _ in self._tasks.values()), *self._idle]:
            ray.kill(worker)
        self._tasks.clear()
        self._idle.clear()

    def record(self, corpus: dict[str, Any]) -> dict[str, Any]:
        """See `Annotator.record`; asks the first worker that has its models."""
        while True:
            while not self._idle:
                self._next()
            worker = self._idle[0]
            try:
                record: dict[str, Any] = self._answer(worker.record.remote(corpus))
            except RayActorError as error:
                self._idle.remove(worker)
                self._replace("before it was given anything", error)
            else:
                return record

    def shards(
        self, shards: Iterable[tuple[int, Iterable[Record]]], tick: Progress, report: Report | None
    ) -> Iterator[tuple[int, list[Row], dict[str, Any]]]:
        """The shards, in the order in which workers end with them: see `annotate.Worker`."""
        source = iter(shards)
        again: list[tuple[int, list[Record]]] = []
        more = True
        while True:
            while self._idle and (again or more):
                if again:
                    shard = again.pop()
                elif (found := next(source, None)) is not None:
                    shard = found[0], list(found[1])
                else:
                    more = False
                    break
                worker = self._idle.pop()
                self._tasks[worker.rows.remote(shard[1])] = worker, shard
            if not more and not again and all(task is None for _, task in self._tasks.values()):
                return
            lost, made = self._next()
            if lost:
                again.append(lost)
                if report:
                    report(f"a worker was lost; shard {lost[0]} is made again")
            if made:
                index, rows, counts = made
                if report:
                    for line in counts["broken"]:
                        report(f"{line}; skipped")
                yield index, rows, counts

    def _start(self) -> None:
        worker = _Worker.options(**self._resources).remote()
        self._tasks[worker.load.remote(self._load)] = worker, None

    def _next(self) -> tuple[Task, tuple[int, list[Row], dict[str, Any]] | None]:
        """Await one worker: the shard that is lost with it, or the one that it has made."""
        (ready,), _ = ray.wait(list(self._tasks), num_returns=1)
        worker, task = self._tasks.pop(ready)
        try:
            found = self._answer(ready)
        except RayActorError as error:
            self._replace(_doing(task), error)
            return task, None
        self._failures.pop(_doing(task), None)
        self._idle.append(worker)
        return None, (task[0], *found) if task else None

    def _replace(self, doing: str, error: RayActorError) -> None:
        """Start a worker in place of one that died.

        Raises:
            TrainingError: Too many died over the same.
        """
        self._failures[doing] = self._failures.get(doing, 0) + 1
        if self._failures[doing] >= TRIES:
            raise TrainingError(
                f"a worker died {doing}, for the {TRIES}rd time ({str(error).splitlines()[0].strip()}): if memory is "
                "short, use fewer workers or a smaller --batch-size"
            ) from error
        logger.info("a worker was lost, and another takes its place")
        self._start()

    def _answer(self, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:
            # an error of ours is told as if it had happened here
            if isinstance(error.cause, SaffronError):
                raise error.cause from None
            raise


def _doing(task: Task) -> str:
    return "while it loaded its models" if task is None else f"over shard {task[0]}"


class _Annotating:
    """An annotator in a process of its own."""

    def load(self, load: Load) -> None:
        self._annotator = load()

    def record(self, corpus: dict[str, Any]) -> dict[str, Any]:
        return self._annotator.record(corpus)

    def rows(self, records: list[Record]) -> tuple[list[Row], dict[str, Any]]:
        return self._annotator.rows(records)


_Worker = ray.remote(_Annotating)
