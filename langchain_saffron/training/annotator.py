"""What annotates: a process reward model, and how it is asked for the prefixes of every answer of some records."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from langchain_saffron.errors import ContextOverflowError, CorpusError, PromptError, SettingsError
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.runtime.threads import threads_for
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.annotation_manifest import OPTIONAL_COUNTS, settings_record
from langchain_saffron.training.candidates import Candidates
from langchain_saffron.training.corpus import Record
from langchain_saffron.training.corpus.formats import conversations_of
from langchain_saffron.training.corpus.messages import Message, ShapeError, is_answer
from langchain_saffron.training.corpus.turns import response_ids, turn_text
from langchain_saffron.training.rollouts import Rollouts
from langchain_saffron.training.settings import AnnotateSettings
from langchain_saffron.training.shards import Row

Progress = Callable[[int, int], None]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """One answer of a conversation, as both reward models see it.

    Attributes:
        prompt: The MRM's prompt.
        asked: The PRM's prompt.
        response: The answer's ids, the same for both.
        policy: The policy's prompt, where it continues prefixes or names candidates.
    """

    prompt: list[int]
    asked: list[int]
    response: list[int]
    policy: list[int] = field(default_factory=list)


class Annotator:
    """Makes the rows of shards; what they hold depends on nothing but this and the records."""

    def __init__(
        self,
        prm: ProcessRewardModel,
        settings: AnnotateSettings,
        template: RewardTemplate | None = None,
        rollouts: Rollouts | None = None,
        candidates: Candidates | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            prm: The process reward model.
            settings: What is annotated.
            template: How the MRM to be trained will read a conversation; `None` for the PRM's own.
            rollouts: Makes each reward a forecast.
            candidates: Names tokens that are scored beside those that were said.

        Raises:
            SettingsError: Forecasts of candidates are asked for.
        """
        if rollouts is not None and candidates is not None:
            raise SettingsError("candidates: forecasts (rollouts) are made of what was said alone; choose one of them")
        self._prm, self._settings, self._rollouts, self._candidates = prm, settings, rollouts, candidates
        self._template = template or prm.template

    def record(self, corpus: dict[str, Any]) -> dict[str, Any]:
        """All that the shards depend on, for the manifest.

        Args:
            corpus: What says which corpus it is.
        """
        rollouts = self._rollouts.record() if self._rollouts else None
        candidates = self._candidates.record() if self._candidates else None
        return settings_record(corpus, self._prm, self._settings, self._template, rollouts, candidates)

    def rows(
        self, records: Iterable[Record], tick: Progress | None = None, report: Report | None = None
    ) -> tuple[list[Row], dict[str, Any]]:
        """The rows of a shard, and its counts.

        Args:
            records: The shard's records.
            tick: Called with the records done and the rewards made so far.
            report: Called with a line for every broken record.

        Raises:
            CorpusError: A record is broken, and `strict` is set.
        """
        with threads_for(self._prm.decoder.model if self._prm.decoder else None):
            return self._rows(records, tick, report)

    def shards(
        self, shards: Iterable[tuple[int, Iterable[Record]]], tick: Progress, report: Report | None
    ) -> Iterator[tuple[int, list[Row], dict[str, Any]]]:
        """One shard after another, each with its number: see `annotate.Worker`."""
        for index, records in shards:
            yield index, *self.rows(records, tick, report)

    def _rows(
        self, records: Iterable[Record], tick: Progress | None, report: Report | None
    ) -> tuple[list[Row], dict[str, Any]]:
        rows: list[Row] = []
        waiting: list[tuple[int, Answer]] = []
        counts: dict[str, Any] = {"records": 0, "rows": 0, "rewards": 0, "too_long": 0, "broken": []}
        unknown = dict.fromkeys(OPTIONAL_COUNTS, 0)
        completed = getattr(self._prm, "completed", 0)

        def flush() -> None:
            answers = [answer for _, answer in waiting]
            scored, others = self._rewards(answers)
            for (record, answer), rewards, beside in zip(waiting, scored, others, strict=True):
                known = int((~rewards.isnan()).sum())
                if known or not len(rewards):
                    rows.append(Row(record, answer.prompt, answer.response, rewards.tolist(), *beside))
                    counts["rewards"] += known
                    unknown["unknown"] += len(rewards) - known
                    if beside:
                        unknown["candidates"] += sum(reward == reward for some in beside[1] for reward in some)
                        unknown["after"] += sum(reward == reward for reward in beside[3])
                else:
                    unknown["skipped"] += 1
            waiting.clear()
            if tick:
                tick(counts["records"], counts["rewards"])

        for record in records:
            counts["records"] += 1
            try:
                answers = self._answers(record)
            except (ShapeError, PromptError, ContextOverflowError) as error:
                problem = " ".join(str(error).split())
                if self._settings.strict:
                    raise CorpusError(f"{record.where}: {problem}") from error
                counts["broken"].append(f"{record.where}: {problem}")
                if report:
                    report(f"{record.where}: {problem}; skipped")
                continue
            counts["too_long"] += not answers
            waiting += [(record.index, answer) for answer in answers]
            if len(waiting) >= self._settings.batch_size:
                flush()
        flush()
        unknown["completed"] = getattr(self._prm, "completed", 0) - completed
        counts |= {what: count for what, count in unknown.items() if count}
        counts["rows"] = len(rows)
        counts["safe"] = sum(reward > 0 for row in rows for reward in row.rewards)
        return rows, counts

    def _answers(self, record: Record) -> list[Answer]:
        """What there is to score in a record, each answer once."""
        if record.data is None:
            raise ShapeError(record.problem or "unreadable")
        answers: dict[tuple[int, ...], Answer] = {}
        for messages in conversations_of(record.data):
            for answer in self._answers_of(messages):
                if self._rollouts is None:
                    self._prm.check_length(answer.asked, answer.response)
                else:
                    self._rollouts.check_length(answer.asked, answer.policy, answer.response)
                if self._candidates is not None:
                    self._candidates.check_length(answer.policy, answer.response)
                # chosen and rejected share all turns but the last
                answers.setdefault((len(answer.prompt), *answer.prompt, *answer.response), answer)
        return list(answers.values())

    def _answers_of(self, messages: list[Message]) -> Iterator[Answer]:
        """The answers of a conversation that lie within its first tokens.

        Raises:
            PromptError: A template cannot take the conversation.
        """
        encoder = safe_encoder(self._prm.tokenizer)
        places = [i for i, turn in enumerate(messages) if is_answer(turn)]
        for place in places if self._settings.turns == "all" else places[-1:]:
            turns = [(turn["role"], turn_text(turn)) for turn in messages[:place]]
            prompt = self._template.prompt_ids(self._prm.tokenizer, turns)
            room = self._settings.max_tokens - len(prompt)
            if room < 1:
                return
            response = response_ids(encoder, messages[place])[:room]
            asks = self._rollouts or self._candidates
            policy = asks.prompt_ids(turns) if asks else []
            yield Answer(prompt, self._prm.prompt_ids(turns), response, policy)

    def _rewards(self, answers: list[Answer]) -> tuple[list[torch.Tensor], Sequence[tuple[Any, ...]]]:
        """Of every prefix of some answers; and candidates with their rewards, for a `Row`, where they are asked for."""
        pairs = [(answer.asked, answer.response) for answer in answers]
        if self._candidates is not None:
            named = [self._candidates.of(answer.policy, answer.response) for answer in answers]
            after = [
                self._candidates.after(answer.policy, answer.response, some)
                for answer, some in zip(answers, named, strict=True)
            ]
            branches = [
                [(i, (token,)) for i, some in enumerate(each) for token in some]
                + [(i, (token, behind)) for i, token, behind in further]
                for each, further in zip(named, after, strict=True)
            ]
            rewards, found = self._prm.score_branches(pairs, branches)
            return rewards, [_beside(*parts) for parts in zip(named, after, found, strict=True)]
        if self._rollouts is None:
            return self._prm.score(pairs), [()] * len(answers)
        rewards = [
            self._rollouts.rewards(answer.asked, answer.policy, answer.response) if answer.response else torch.empty(0)
            for answer in answers
        ]
        return rewards, [()] * len(answers)


def _beside(named: list[list[int]], after: list[tuple[int, int, int]], found: torch.Tensor) -> tuple[Any, ...]:
    """Candidates at each token of an answer, and their rewards in the same form; what follows, and its rewards."""
    rewards = iter(found.tolist())
    return named, [[next(rewards) for _ in some] for some in named], after, list(rewards)
