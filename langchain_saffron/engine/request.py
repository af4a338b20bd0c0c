"""A request on its way through the engine, and the events that it sends."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from langchain_saffron.engine.metrics import RequestTimes
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.engine.result import SearchResult, SearchStats
from langchain_saffron.engine.said_nodes import SaidNodes
from langchain_saffron.engine.text_stream import AnswerStream
from langchain_saffron.grammar import Grammar
from langchain_saffron.search import Expand, Search, SearchInputs
from langchain_saffron.templates.thoughts import Thoughts

POLICY, REWARD, PRM = "policy", "reward", "prm"


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
        thoughts: How thoughts are told from what the answer says; `None` takes all of it for text.
        reward_thoughts: Whether the reward models see thoughts (the default).
        markers: Names of control tokens that are given out with the text, as `MarkerText`.
        record_trace: Whether `SearchResult.trace` is wanted, which only `search="saffron"` has.
    """

    cache_salt: str
    prm_prompt_ids: Sequence[int] | None
    context_ids: Sequence[int]
    timeout: float | None
    grammar: Grammar | None
    thoughts: Thoughts | None
    reward_thoughts: bool
    markers: Mapping[int, str]
    record_trace: bool


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
        committed: Response tokens that have been said.
        search: What decides, once it has begun.
        expand: What it wants scored.
        caches: Its view of each model that it asks.
        scored: What has come of `expand`, by model.
        arrival: Its place among all requests of the engine.
        overtaken: How many that came later began before it.
        last_turn: The latest tick that was also its.
        times: When what happened to it.
        said: What the reward models see in place of the search's nodes; `None` where they see thoughts too.
    """

    inputs: SearchInputs
    start: Callable[[SearchInputs], Search]
    policy_ids: tuple[int, ...]
    reward_ids: tuple[int, ...] | None
    prm_ids: Sequence[int] | None
    salt: str
    stream: AnswerStream
    send: Callable[[Event], None]
    deadline: float | None = None
    stats: SearchStats = field(default_factory=SearchStats)
    cancelled: threading.Event = field(default_factory=threading.Event)
    question: int = 0
    committed: int = 0
    search: Search | None = None
    expand: Expand | None = None
    caches: dict[str, RequestCache] = field(default_factory=dict)
    scored: dict[str, Any] = field(default_factory=dict)
    arrival: int = 0
    overtaken: int = 0
    last_turn: int = 0
    times: RequestTimes = field(default_factory=RequestTimes)
    said: SaidNodes | None = None

    def ask(self, expand: Expand) -> None:
        """Want this scored."""
        self.expand = expand
        if self.said is not None:
            self.said.ask(expand)

    def asked(self, name: str) -> Expand:
        """What a model is asked of what the search wants scored."""
        assert self.expand is not None
        return self.expand if self.said is None or name == POLICY else self.said.expand

    @property
    def prompts(self) -> dict[str, Sequence[int]]:
        """The prompt of each model that it asks."""
        prompts = {POLICY: self.policy_ids, REWARD: self.reward_ids, PRM: self.prm_ids}
        return {name: ids for name, ids in prompts.items() if ids is not None}

    @property
    def rows(self) -> int:
        """How many nodes its next step scores, in the model that scores most."""
        return max((len(self.caches[name].frontier) for name in self.waiting_for), default=0)

    def growth(self, steps: int, width: int) -> int:
        """The most slots that so many steps of so many beams take, in one model, where no two beams share any."""
        return width * (min(self.inputs.max_tokens, steps) + self.question)

    @property
    def waiting_for(self) -> list[str]:
        """The models whose scores are still missing."""
        return [name for name in self.caches if name not in self.scored]
