"""Annotation of a corpus: a process reward model scores every prefix of every answer."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from langchain_saffron.errors import CorpusError
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.annotation_manifest import corpus_record, finish_run, start_run
from langchain_saffron.training.annotator import Annotator, Progress, Report
from langchain_saffron.training.candidates import Candidates
from langchain_saffron.training.corpus import Corpus, Record
from langchain_saffron.training.corpus.formats import conversations_of
from langchain_saffron.training.corpus.messages import ShapeError
from langchain_saffron.training.rollouts import Rollouts
from langchain_saffron.training.settings import AnnotateSettings
from langchain_saffron.training.shards import Row, file_hash, read_counts, shard_name, write_shard


class Worker(Protocol):
    """What makes the rows of shards, here or in other processes."""

    def record(self, corpus: dict[str, Any]) -> dict[str, Any]:
        """See `Annotator.record`."""

    def shards(
        self, shards: Iterable[tuple[int, Iterable[Record]]], tick: Progress, report: Report | None
    ) -> Iterator[tuple[int, list[Row], dict[str, Any]]]:
        """Rows and counts of the shards, in whatever order.

        Args:
            shards: Their numbers and records.
            tick: Called with the records and rewards of a shard that is being made.
            report: Called with a line for every broken record.
        """


def annotate(
    corpus: Corpus,
    prm: ProcessRewardModel,
    out: str | Path,
    settings: AnnotateSettings | None = None,
    *,
    template: RewardTemplate | None = None,
    rollouts: Rollouts | None = None,
    candidates: Candidates | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Score every prefix of the answers in a corpus, and write them as shards with a manifest.

    A run that was killed goes on where it stopped when it is started again: shards appear whole or not at all, and the
    result is the same to the byte.

    Args:
        corpus: The conversations.
        prm: The process reward model.
        out: A directory, new or of the same run.
        settings: What is annotated; `None` for the defaults.
        template: How the MRM to be trained will read a conversation; `None` for a classifier's own, and the published
            one with any other PRM.
        rollouts: Makes each reward a forecast: the mean of the PRM's rewards of the policy's continuations. `None` for
            the PRM's reward of the prefix itself.
        candidates: Names tokens that the policy could have said in place of each; they are scored as well.
        progress: Called with the records done and the rewards made so far.
        report: Called with a line for every broken record.

    Returns:
        The manifest. Its `complete` is false where other parts are still missing.

    Raises:
        CorpusError: There is nothing to annotate, a record is broken and `strict` is set, or `out` holds another run.
        SettingsError: Forecasts of candidates are asked for.
        StorageError: A shard could not be written; those before it are whole.
    """
    settings = settings or AnnotateSettings()
    return annotate_by(
        Annotator(prm, settings, template, rollouts, candidates), corpus, out, settings, progress, report
    )


def annotate_by(
    worker: Worker,
    corpus: Corpus,
    out: str | Path,
    settings: AnnotateSettings,
    progress: Progress | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """`annotate`, by whatever makes the rows.

    Args:
        worker: Makes them, of these settings.
        corpus: As for `annotate`, which also says what is returned and raised.
        out: Likewise.
        settings: Likewise.
        progress: Likewise.
        report: Likewise.
    """
    out = Path(out)
    records = min(len(corpus), settings.limit or len(corpus))
    if not records:
        raise CorpusError(f"{corpus.path} is empty")
    _check_shape(corpus, records)
    manifest = start_run(out, worker.record(corpus_record(corpus, records)))
    shards = math.ceil(records / settings.shard_size)
    hashes = {shard["file"]: shard["sha256"] for shard in manifest.get("shards", ())}
    done = made = 0

    def tick(records: int, rewards: int) -> None:
        if progress:
            progress(done + records, made + rewards)

    def missing() -> Iterator[tuple[int, Iterable[Record]]]:
        nonlocal done, made
        for index in range(shards):
            start, stop = index * settings.shard_size, min(records, (index + 1) * settings.shard_size)
            path = out / shard_name(index)
            counts = read_counts(path)
            if counts is not None and path.name in hashes and file_hash(path) != hashes[path.name]:
                raise CorpusError(f"{path} is damaged: delete it and run again")
            if counts is not None:
                done, made = done + stop - start, made + counts["rewards"]
                tick(0, 0)
            elif index % settings.part[1] == settings.part[0] - 1:
                # before the first rewards, so that their time counts
                tick(0, 0)
                yield index, corpus.read(start, stop)

    for index, rows, counts in worker.shards(missing(), tick, report):
        write_shard(out / shard_name(index), rows, counts)
        done, made = done + counts["records"], made + counts["rewards"]
        tick(0, 0)
    return finish_run(out, manifest, shards)


def _check_shape(corpus: Corpus, records: int) -> None:
    """A corpus of the wrong shape should be told at once, not record by record."""
    problems = []
    for record in corpus.read(0, min(records, 20)):
        try:
            if record.data is not None:
                conversations_of(record.data)
                return
            problems.append(f"{record.where}: {record.problem}")
        except ShapeError as error:
            problems.append(f"{record.where}: {error}")
    raise CorpusError(f"{corpus.path} is in the wrong shape: none of its first records can be used; {problems[0]}")
