"""Annotation of a corpus: a process reward model scores every prefix of every answer."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from langchain_saffron.errors import ContextOverflowError, CorpusError, PromptError
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.runtime.threads import threads_for
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.annotation_manifest import OPTIONAL_COUNTS, finish_run, settings_record, start_run
from langchain_saffron.training.corpus import Corpus, Record
from langchain_saffron.training.corpus.formats import Message, ShapeError, conversations_of, is_answer
from langchain_saffron.training.corpus.turns import response_ids, turn_text
from langchain_saffron.training.rollouts import Rollouts
from langchain_saffron.training.settings import AnnotateSettings
from langchain_saffron.training.shards import (
    Row,
    file_hash,
    read_counts,
    shard_name,
    write_shard,
)

Progress = Callable[[int, int], None]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """One answer of a conversation, as both reward models see it.

    Attributes:
        prompt: The MRM's prompt.
        asked: The PRM's prompt.
        response: The answer's ids, the same for both.
        policy: The policy's prompt, where it continues prefixes.
    """

    prompt: list[int]
    asked: list[int]
    response: list[int]
    policy: list[int] = field(default_factory=list)


def annotate(
    corpus: Corpus,
    prm: ProcessRewardModel,
    out: str | Path,
    settings: AnnotateSettings | None = None,
    *,
    template: RewardTemplate | None = None,
    rollouts: Rollouts | None = None,
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
        progress: Called with the records done and the rewards made so far.
        report: Called with a line for every broken record.

    Returns:
        The manifest. Its `complete` is false where other parts are still missing.

    Raises:
        CorpusError: There is nothing to annotate, a record is broken and `strict` is set, or `out` holds another run.
        StorageError: A shard could not be written; those before it are whole.
    """
    settings = settings or AnnotateSettings()
    template = template or prm.template
    out = Path(out)
    records = min(len(corpus), settings.limit or len(corpus))
    if not records:
        raise CorpusError(f"{corpus.path} is empty")
    _check_shape(corpus, records)
    manifest = start_run(
        out, settings_record(corpus, prm, settings, template, records, rollouts.record() if rollouts else None)
    )
    shards = math.ceil(records / settings.shard_size)
    hashes = {shard["file"]: shard["sha256"] for shard in manifest.get("shards", ())}
    done = made = 0
    for index in range(shards):
        start, stop = index * settings.shard_size, min(records, (index + 1) * settings.shard_size)
        path = out / shard_name(index)
        counts = read_counts(path)
        if counts is not None and path.name in hashes and file_hash(path) != hashes[path.name]:
            raise CorpusError(f"{path} is damaged: delete it and run again")
        if counts is None and index % settings.part[1] == settings.part[0] - 1:
            before = done, made

            def tick(records: int, rewards: int, before: tuple[int, int] = before) -> None:
                if progress:
                    progress(before[0] + records, before[1] + rewards)

            with threads_for(prm.decoder.model if prm.decoder else None):
                counts = _annotate_shard(
                    path, corpus.read(start, stop), prm, settings, template, rollouts, tick, report
                )
        if counts is not None:
            done, made = done + stop - start, made + counts["rewards"]
            if progress:
                progress(done, made)
    return finish_run(out, manifest, shards)


def answers_of(
    messages: list[Message],
    prm: ProcessRewardModel,
    settings: AnnotateSettings,
    template: RewardTemplate,
    rollouts: Rollouts | None = None,
) -> Iterator[Answer]:
    """The answers of a conversation that lie within its first tokens.

    Raises:
        PromptError: A template cannot take the conversation.
    """
    encoder = safe_encoder(prm.tokenizer)
    places = [i for i, turn in enumerate(messages) if is_answer(turn)]
    for place in places if settings.turns == "all" else places[-1:]:
        turns = [(turn["role"], turn_text(turn)) for turn in messages[:place]]
        prompt = template.prompt_ids(prm.tokenizer, turns)
        room = settings.max_tokens - len(prompt)
        if room < 1:
            return
        response = response_ids(encoder, messages[place])[:room]
        yield Answer(prompt, prm.prompt_ids(turns), response, rollouts.prompt_ids(turns) if rollouts else [])


def _annotate_shard(
    path: Path,
    records: Iterable[Record],
    prm: ProcessRewardModel,
    settings: AnnotateSettings,
    template: RewardTemplate,
    rollouts: Rollouts | None,
    tick: Progress,
    report: Report | None,
) -> dict[str, Any]:
    rows: list[Row] = []
    waiting: list[tuple[int, Answer]] = []
    counts: dict[str, Any] = {"records": 0, "rows": 0, "rewards": 0, "too_long": 0, "broken": []}
    unknown = dict.fromkeys(OPTIONAL_COUNTS, 0)
    completed = getattr(prm, "completed", 0)

    def flush() -> None:
        scored = _rewards([answer for _, answer in waiting], prm, rollouts)
        for (record, answer), rewards in zip(waiting, scored, strict=True):
            known = int((~rewards.isnan()).sum())
            if known or not len(rewards):
                rows.append(Row(record, answer.prompt, answer.response, rewards.tolist()))
                counts["rewards"] += known
                unknown["unknown"] += len(rewards) - known
            else:
                unknown["skipped"] += 1
        waiting.clear()
        tick(counts["records"], counts["rewards"])

    for record in records:
        counts["records"] += 1
        try:
            answers = _answers(record, prm, settings, template, rollouts)
        except (ShapeError, PromptError, ContextOverflowError) as error:
            problem = " ".join(str(error).split())
            if settings.strict:
                raise CorpusError(f"{record.where}: {problem}") from error
            counts["broken"].append(f"{record.where}: {problem}")
            if report:
                report(f"{record.where}: {problem}; skipped")
            continue
        counts["too_long"] += not answers
        waiting += [(record.index, answer) for answer in answers]
        if len(waiting) >= settings.batch_size:
            flush()
    flush()
    unknown["completed"] = getattr(prm, "completed", 0) - completed
    counts |= {what: count for what, count in unknown.items() if count}
    counts["rows"] = len(rows)
    counts["safe"] = sum(reward > 0 for row in rows for reward in row.rewards)
    write_shard(path, rows, counts)
    return counts


def _answers(
    record: Record,
    prm: ProcessRewardModel,
    settings: AnnotateSettings,
    template: RewardTemplate,
    rollouts: Rollouts | None,
) -> list[Answer]:
    """What there is to score in a record, each answer once."""
    if record.data is None:
        raise ShapeError(record.problem or "unreadable")
    answers: dict[tuple[int, ...], Answer] = {}
    for messages in conversations_of(record.data):
        for answer in answers_of(messages, prm, settings, template, rollouts):
            if rollouts is None:
                prm.check_length(answer.asked, answer.response)
            else:
                rollouts.check_length(answer.asked, answer.policy, answer.response)
            # chosen and rejected share all turns but the last
            answers.setdefault((len(answer.prompt), *answer.prompt, *answer.response), answer)
    return list(answers.values())


def _rewards(answers: list[Answer], prm: ProcessRewardModel, rollouts: Rollouts | None) -> list[torch.Tensor]:
    """Of every prefix of some answers."""
    if rollouts is None:
        return prm.score([(answer.asked, answer.response) for answer in answers])
    return [
        rollouts.rewards(answer.asked, answer.policy, answer.response) if answer.response else torch.empty(0)
        for answer in answers
    ]


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
