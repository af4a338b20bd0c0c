"""Runs adaptive searches: every query is an answer of the method that is attacked, and a row of the log."""

import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.evaluation.adaptive_search import AdaptiveSearch
from langchain_saffron.evaluation.attack import Attack, Attacked
from langchain_saffron.evaluation.cases import Case
from langchain_saffron.evaluation.reward_reading import RewardReader
from langchain_saffron.evaluation.runner import CONCURRENCY, Runner, Started
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.evaluation.suffix_search import target_tokens
from langchain_saffron.evaluation.target_scoring import TargetScorer


@dataclass(frozen=True)
class Query(Attack):
    """One of a search's prompts."""

    name: str
    attacked: Attacked

    def apply(self, sample: Sample) -> Attacked:
        """The prompt."""
        return self.attacked


class _Search:
    """One search for one sample, between two queries."""

    def __init__(self, case: Case) -> None:
        assert isinstance(case.attack, AdaptiveSearch)
        self.place, self._queries = case.attack.place, case.attack.queries
        self._candidates = case.attack.candidates(case.sample)
        self.query: Case | None = self._ask(replace(case, query=1), next(self._candidates))

    def learn(self, score: float) -> None:
        """Go on to the next query, if there is one."""
        assert self.query is not None
        number = self.query.query + 1
        done = number > self._queries
        self.query = None if done else self._ask(replace(self.query, query=number), self._candidates.send(score))

    @staticmethod
    def _ask(case: Case, attacked: Attacked) -> Case:
        return replace(case, attack=Query(case.attack.name, attacked))


class SearchRunner:
    """Asks a runner for one answer after the other in each search, and in many searches at once.

    An answer scores by its reward, less being better for the attacker: the method's own or, where the method reads
    none, that of the engine's reward model. For a suffix the target's mean log-likelihood is added, so that there is a
    way up where every answer is a refusal. No judge is asked.
    """

    def __init__(self, engine: SaffronEngine, runner: Runner) -> None:
        """Take what answers.

        Raises:
            RewardModelRequiredError: The engine has no reward model.
        """
        self._engine = engine
        self._runner = runner
        self._likelihood = TargetScorer(engine)
        self._reader = RewardReader(engine, f"attack/{secrets.token_hex(8)}")

    def run(self, cases: Iterable[Case], known: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        """Search, and give a row for the log of every query as it is done.

        Args:
            cases: Under adaptive searches.
            known: Scores of queries that are in the log, by their keys: they are not asked again.
        """
        waiting = map(_Search, cases)
        running: deque[tuple[_Search, Started]] = deque()
        try:
            while True:
                while len(running) < CONCURRENCY and (search := next(waiting, None)) is not None:
                    while search.query is not None and search.query.key in known:
                        search.learn(known[search.query.key])
                    if search.query is not None:
                        running.append((search, self._runner.start(search.query)))
                if not running:
                    return
                search, started = running.popleft()
                row = self._runner.finish(started)
                row["score"] = score = self._score(search, started, row["reward"])
                yield row
                search.learn(score)
                if search.query is not None:
                    running.append((search, self._runner.start(search.query)))
        finally:
            for _, started in running:
                started.handle.cancelled.set()

    def _score(self, search: _Search, started: Started, reward: float | None) -> float:
        ends = self._engine.end_tokens
        answer = [token for token in started.result.token_ids if token not in ends]
        if not answer:
            return -float("inf")
        if reward is None:
            (rewards,) = self._engine.call(lambda: self._reader.rewards([started.prompt], [answer]))
            reward = float(rewards[-1])
        if search.place == "prefill":
            return -reward
        target = target_tokens(self._engine.tokenizer, started.case.sample)
        (likelihood,) = self._likelihood.score([started.attacked.messages], target)
        return likelihood - reward
