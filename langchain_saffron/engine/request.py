"""A request on its way through the engine, and the events that it sends."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch

from langchain_saffron.engine.detokenizer import TextStream
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.engine.result import SearchResult, SearchStats
from langchain_saffron.grammar import Grammar
from langchain_saffron.search import Search, SearchInputs


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that became final."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a request."""

    result: SearchResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The error that ended a request."""

    error: BaseException


class RequestOptions(TypedDict, total=False):
    """Options of one request, besides its settings.

    Attributes:
        cache_salt: Requests share cached prompts only under the same salt.
        prm_prompt_ids: The process reward model's prompt; by default the reward model's.
        context_ids: The prompt's text that the answer continues, for its first space; only the end counts.
        timeout: Seconds after which the request fails.
        grammar: What the answer has to look like; needs the extra `agents`.
    """

    cache_salt: str
    prm_prompt_ids: Sequence[int] | None
    context_ids: Sequence[int]
    timeout: float | None
    grammar: Grammar | None


Event = Delta | Done | Failed


@dataclass(eq=False)
class Request:
    """One answer in the making.

    Attributes:
        inputs: What the search knows.
        start: Makes the search.
        policy_ids: The prompt.
        reward_ids: The prompt in the reward model's template; `None` where the search asks no reward model.
        prm_ids: The prompt for the process reward model; `None` where the search asks none.
        salt: Whose cache it shares.
        stream: The response's text.
        send: Takes events, on the engine's thread.
        deadline: Clock reading after which the request fails with `TimeoutError`.
        stats: What it has cost.
        question: Tokens that a process reward model needs for each response besides it.
        cancelled: Set by the caller; looked at before every step.
    """

    inputs: SearchInputs
    start: Callable[[SearchInputs], Search]
    policy_ids: tuple[int, ...]
    reward_ids: tuple[int, ...] | None
    prm_ids: Sequence[int] | None
    salt: str
    stream: TextStream
    send: Callable[[Event], None]
    deadline: float | None = None
    stats: SearchStats = field(default_factory=SearchStats)
    cancelled: threading.Event = field(default_factory=threading.Event)
    question: int = 0
    committed: int = 0
    search: Search | None = None
    caches: dict[str, RequestCache] = field(default_factory=dict)
    scored: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def slots_needed(self) -> int:
        """An upper bound of the slots that it may hold at once, in one model."""
        prompt = max(len(self.policy_ids), len(self.reward_ids or ()), len(self.prm_ids or ()))
        return prompt + self.inputs.settings.width * (self.inputs.max_tokens + self.question)

    @property
    def waiting_for(self) -> list[str]:
        """The models whose scores are still missing."""
        return [name for name in self.caches if name not in self.scored]
