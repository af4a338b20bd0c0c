"""What an engine has done since it was loaded: counters, gauges and distributions, by the names that vLLM gave them."""

import math
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from langchain_saffron.engine.result import SearchResult, SearchStats

# upper bounds of seconds, and of probabilities
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
BETWEEN_TOKENS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WHOLE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
SHARES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass
class Distribution:
    """How often values fell below which bound.

    Attributes:
        bounds: Upper bounds, rising; above the last there is no other.
        counts: Values of each range, that above the last bound included; not added up.
        total: The sum of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Book a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> "Distribution":
        """As it is now."""
        return Distribution(self.bounds, list(self.counts), self.total)


@dataclass(slots=True)
class RequestTimes:
    """When what happened to a request, as readings of `time.perf_counter`.

    Attributes:
        arrived: It was handed in.
        begun: It got its slots for the first time.
        said: It said something last.
    """

    arrived: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    said: float | None = None


@dataclass
class EngineMetrics:
    """An engine's counters since it was loaded, and how things stand now.

    Attributes:
        num_requests_running: Requests that search now.
        num_requests_waiting: Requests that wait to begin or, paused, to go on.
        kv_cache_usage_perc: The policy's slots that running requests hold, of all: 0 to 1.
        kv_cache_evictions: Kept prompts that the policy's cache dropped because their slots were needed.
        prefix_cache_queries: Prompt tokens that were looked up in the policy's cache.
        prefix_cache_hits: Those that were there.
        prompt_tokens: Of requests that began.
        generation_tokens: Of finished answers.
        request_success: Ended requests by finish reason; `"abort"` was cancelled, `"error"` failed.
        admission_rejections: Requests turned away, by reason.
        refusals: Answers that end with a refusal.
        budget_exhausted: Answers whose search a compute budget ended.
        unseen_fallbacks: How often the mask of unseen tokens emptied a beam's nucleus.
        reward_calls: Sequences scored by a reward model.
        narrowed: Answers whose search gave up beams for which the KV cache had no room.
        pauses: How often a search gave its slots to another.
        tflops: Forward TFLOP of all models.
        time_to_first_token_seconds: From the hand-in to the first text.
        inter_token_latency_seconds: Between two pieces of text.
        e2e_request_latency_seconds: From the hand-in to the end.
        request_queue_time_seconds: From the hand-in to the first slots.
        answer_risk: How likely the guard is to find an answer unsafe, by the lowest predicted reward of its tokens.
    """

    num_requests_running: int = 0
    num_requests_waiting: int = 0
    kv_cache_usage_perc: float = 0.0
    kv_cache_evictions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    request_success: Counter[str] = field(default_factory=Counter)
    admission_rejections: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    budget_exhausted: int = 0
    unseen_fallbacks: int = 0
    reward_calls: int = 0
    narrowed: int = 0
    pauses: int = 0
    tflops: float = 0.0
    time_to_first_token_seconds: Distribution = field(default_factory=lambda: Distribution(FIRST_TOKEN))
    inter_token_latency_seconds: Distribution = field(default_factory=lambda: Distribution(BETWEEN_TOKENS))
    e2e_request_latency_seconds: Distribution = field(default_factory=lambda: Distribution(WHOLE))
    request_queue_time_seconds: Distribution = field(default_factory=lambda: Distribution(WHOLE))
    answer_risk: Distribution = field(default_factory=lambda: Distribution(SHARES))

    def begin(self, times: RequestTimes, stats: SearchStats, prompt: int) -> None:
        """Book that a request got its slots.

        Args:
            times: Its times.
            stats: What it has cost.
            prompt: Tokens of its prompt.
        """
        times.begun = time.perf_counter()
        self.request_queue_time_seconds.add(times.begun - times.arrived)
        self.prompt_tokens += prompt
        self.prefix_cache_queries += prompt
        self.prefix_cache_hits += stats.cached_prompt

    def say(self, times: RequestTimes) -> None:
        """Book that a piece of text became final."""
        now = time.perf_counter()
        if times.said is None:
            self.time_to_first_token_seconds.add(now - times.arrived)
        else:
            self.inter_token_latency_seconds.add(now - times.said)
        times.said = now

    def finish(self, times: RequestTimes, result: SearchResult) -> None:
        """Book an answer."""
        self.end(times, result.stats, result.finish_reason)
        self.generation_tokens += len(result.token_ids)
        self.refusals += result.finish_reason == "refusal"
        self.budget_exhausted += result.stats.budget_exhausted
        self.unseen_fallbacks += result.stats.unseen_fallbacks
        self.narrowed += result.stats.narrowed > 0
        if result.stats.min_reward is not None:
            # a reward is a guard's logit of safe minus that of unsafe
            self.answer_risk.add(_share(-result.stats.min_reward))

    def end(self, times: RequestTimes, stats: SearchStats, reason: str) -> None:
        """Book the end of a request, whatever it was."""
        self.request_success[reason] += 1
        self.e2e_request_latency_seconds.add(time.perf_counter() - times.arrived)
        self.tflops += stats.tflops
        self.reward_calls += stats.reward_calls

    def copy(self, **now: Any) -> "EngineMetrics":
        """As it is now, with what only the engine knows.

        Args:
            **now: Fields to set.
        """
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        copied = {n: v.copy() if isinstance(v, Counter | Distribution) else v for n, v in values.items()}
        return EngineMetrics(**{**copied, **now})


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(min(-logit, 500.0)))
