"""One tick: collect what every live search wants scored, run the models once, send the scores back."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count

import torch

from langchain_saffron.engine.delivery import Delivery, result_of
from langchain_saffron.engine.metrics import EngineMetrics
from langchain_saffron.engine.narrowing import hurries, narrow
from langchain_saffron.engine.prm_cache import PrmScorer
from langchain_saffron.engine.prm_function import FunctionScorer
from langchain_saffron.engine.request import POLICY, PRM, REWARD, Done, Failed, Request
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.engine.reward_columns import RewardColumns
from langchain_saffron.engine.step_scorer import StepScorer, typed_error
from langchain_saffron.engine.waiting_line import WaitingLine
from langchain_saffron.errors import CacheFullError, RequestCancelledError, RequestTimeoutError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import Answer, Expand, Scores

logger = logging.getLogger(__name__)

# nodes that one step scores at most, for logits of bounded size; a request is never divided
ROWS_A_STEP = 1024
TIMED_OUT = "the request ran into its timeout; raise timeout= or lower effort="


class Scheduler:
    """Runs many searches over the same forwards; lives on the engine's one thread.

    Searches share a cache without knowing beforehand what they will hold: where slots run out, one of them pauses,
    gives its slots back and goes on when there is room. One that has no room though all others pause becomes narrower.

    Attributes:
        pauses: How often one paused.
        max_running: How many search at a time; `None` for all whose slots fit.
        metrics: What has been done so far.
    """

    def __init__(
        self,
        policy: TrieDecoder,
        reward: TrieDecoder | None,
        to_rewards: RewardColumns | None,
        prm: PrmScorer | FunctionScorer | None = None,
        prefill_rows: int = 256,
    ) -> None:
        """Take the models.

        Args:
            policy: The policy over its cache.
            reward: The reward model over its own, if there is one that has one.
            to_rewards: Turns the reward model's outputs into rewards over the policy's vocabulary.
            prm: The process reward model, if there is one.
            prefill_rows: Prompt tokens that one tick computes at most, so that long prompts do not stall others.
        """
        models = {POLICY: policy, REWARD: reward, PRM: prm.decoder if prm else None}
        self._decoders = {name: decoder for name, decoder in models.items() if decoder is not None}
        self._prm = prm
        translate = {REWARD: to_rewards, PRM: prm.rewards if isinstance(prm, PrmScorer) else None}
        head = to_rewards if to_rewards is not None and to_rewards.of_policy else None
        self._scorer = StepScorer(self._decoders, translate, self._fail, prefill_rows, head)
        self._line = WaitingLine(self._decoders)
        self._active: dict[Request, None] = {}
        self._arrivals = count(1)
        self._ticks = 0
        self.pauses = 0
        self.max_running: int | None = None
        self.metrics = EngineMetrics()
        self._delivery = Delivery(self.metrics)

    @property
    def forwards(self) -> dict[str, int]:
        """Forwards by model, so that sharing can be checked."""
        return self._scorer.forwards

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._line or self._active)

    @property
    def waiting(self) -> int:
        """Requests that wait for slots."""
        return len(self._line)

    @property
    def running(self) -> int:
        """Requests that search now."""
        return len(self._active)

    def admit(self, request: Request) -> None:
        """Take a request in; it starts as soon as its slots fit."""
        request.arrival = next(self._arrivals)
        self._line.add(request)

    def tick(self) -> None:
        """Advance the live requests by at most one step."""
        self._ticks += 1
        self._drop_ended()
        self._start_waiting()
        turn = self._turn()
        self._scorer.score(turn)
        if isinstance(self._prm, FunctionScorer):
            self._prm.score([request for request in turn if PRM in request.waiting_for], PRM, self._fail)
        for request in turn:
            # one that makes room for another is no longer among them
            if request in self._active and not request.waiting_for:
                self._advance(request)

    @property
    def on_cpu(self) -> bool:
        """Whether all models are on the CPU."""
        return all(decoder.device.type == "cpu" for decoder in self._decoders.values())

    def reset(self) -> None:
        """Forget all requests and all that is cached: for a forked child, or after an error at an unknown place."""
        self._line.clear()
        self._active.clear()
        for decoder in self._decoders.values():
            decoder.clear()

    def fail_all(self, error: BaseException) -> None:
        """End every request with `error`."""
        for request in [*self._line, *self._active]:
            self._fail(request, error)
        self._line.clear()

    def _drop_ended(self) -> None:
        now = time.perf_counter()
        for request in [*self._line, *self._active]:
            if request.cancelled.is_set():
                self._fail(request, RequestCancelledError("the request was cancelled"))
            elif request.deadline is not None and now > request.deadline:
                self._fail(request, RequestTimeoutError(TIMED_OUT))

    def _start_waiting(self) -> None:
        while (taken := self._next()) is not None:
            request, width = taken
            alone = not self._active
            self._active[request] = None
            try:
                if request.search is None:
                    self._begin(request)
                else:
                    self._go_on(request, width)
            except CacheFullError as error:
                if alone:
                    self._fail(request, error)
                    continue
                self._pause(request)
                if request.search is None:
                    request.caches = {}
                break
            except BaseException as error:
                self._fail(request, error)

    def _next(self) -> tuple[Request, int] | None:
        """Who may begin now, if anybody may, and how wide."""
        if self.max_running is not None and len(self._active) >= self.max_running:
            return None
        return self._line.take(self._active)

    def _begin(self, request: Request) -> None:
        request.inputs.budget.begin()
        for name, prompt in request.prompts.items():
            prm = self._prm if name == PRM else None
            make = prm.cache if prm else partial(RequestCache, self._decoders[name])
            request.caches[name] = make(prompt, request.salt)
        request.stats.cached_prompt = request.caches[POLICY].cached
        request.stats.cached_tokens = sum(b.cached for b in request.caches.values())
        self.metrics.begin(request.times, request.stats, len(request.policy_ids))
        request.search = request.start(request.inputs)
        self._step(request, None)

    def _go_on(self, request: Request, width: int) -> None:
        """Give a paused request its slots again, or as many as so many beams need."""
        if width < request.inputs.settings.width:
            narrow(request, width)
        else:
            try:
                for name, cache in request.caches.items():
                    cache.resume(request.asked(name))
            except CacheFullError:
                if len(self._active) > 1:
                    raise
                narrow(request)
        self._expect(request)

    def _turn(self) -> list[Request]:
        """Whose step it is: those that waited longest for one come first."""
        chosen: list[Request] = []
        rows = 0
        for request in sorted(self._active, key=lambda request: request.last_turn):
            rows += request.rows
            if chosen and rows > ROWS_A_STEP:
                break
            request.last_turn = self._ticks
            chosen.append(request)
        return chosen

    def _demand(self, request: Request, expand: Expand) -> None:
        if expand.committed:
            request.committed += len(expand.committed)
            self._delivery.say(request, expand.committed)
        request.scored = {}
        request.ask(expand)
        while True:
            try:
                for name, cache in request.caches.items():
                    cache.expand(request.asked(name))
            except CacheFullError:
                victim = self._largest_but_the_oldest()
                if victim is None:
                    # all others wait already
                    narrow(request)
                    break
                if victim is request and hurries(request):
                    with suppress(CacheFullError):
                        narrow(request)
                        break
                self._pause(victim)
                if victim is request:
                    return
            else:
                break
        self._expect(request)

    def _expect(self, request: Request) -> None:
        """A model that is asked nothing has answered."""
        for name, cache in request.caches.items():
            if not cache.frontier:
                request.scored.setdefault(name, torch.empty(0))

    def _largest_but_the_oldest(self) -> Request | None:
        """Who pauses where slots run out: the oldest never does, so that all come to their end."""
        others = sorted(self._active, key=lambda request: request.arrival)[1:]
        return max(others, key=lambda request: sum(c.held for c in request.caches.values()), default=None)

    def _pause(self, request: Request) -> None:
        """Let a request give its slots back until there is room for it again."""
        self.pauses += 1
        del self._active[request]
        self._line.add(request)
        try:
            for cache in request.caches.values():
                cache.pause()
        except BaseException as error:
            self._fail(request, error)

    def _advance(self, request: Request) -> None:
        logits, rewards, prm_rewards = request.scored[POLICY], request.scored.get(REWARD), request.scored.get(PRM)
        if request.said is not None:
            # a head has seen the thoughts of the policy that it is on
            said = request.said.rewards if REWARD in request.caches else request.said.rewards_of_all
            rewards = None if rewards is None else said(rewards, logits.shape[-1])
            prm_rewards = None if prm_rewards is None else request.said.prm_rewards(prm_rewards)
        scores = Scores(logits, rewards, prm_rewards)
        try:
            assert request.expand is not None
            request.inputs.budget.book(request.expand.nodes, request.expand.prm_nodes)
            self._step(request, scores)
        except BaseException as error:
            self._fail(request, error)

    def _step(self, request: Request, scores: Scores | None) -> None:
        """Let the search go on to its next request, or to its end."""
        assert request.search is not None
        try:
            expand = next(request.search) if scores is None else request.search.send(scores)
        except StopIteration as end:
            self._finish(request, end.value)
        else:
            self._demand(request, expand)

    def _finish(self, request: Request, answer: Answer) -> None:
        refusal = self._delivery.rest(request, answer)
        request.stats.close(answer, request.inputs.budget.seconds)
        self._retire(request, answer)
        result = result_of(request, answer, refusal)
        self.metrics.finish(request.times, result)
        self._delivery.send(request, Done(result))

    def _fail(self, request: Request, error: BaseException, keep_prompt: bool = True) -> None:
        self._line.remove(request)
        self._retire(request, None, keep_prompt)
        self.metrics.end(request.times, request.stats, "abort" if request.cancelled.is_set() else "error")
        self._delivery.send(request, Failed(typed_error(error)))

    def _retire(self, request: Request, answer: Answer | None, keep_prompt: bool = True) -> None:
        """Give everything back that the request holds, whatever fails on the way."""
        self._active.pop(request, None)
        caches, request.caches = request.caches, {}
        tips = dict.fromkeys(caches, answer.node if answer else None)
        if request.said is not None and answer is not None and answer.node is not None:
            tips = {name: tip if name == POLICY else request.said.said(answer.node) for name, tip in tips.items()}
        steps: list[Callable[[], None]] = [] if request.search is None else [request.search.close]
        if not keep_prompt:
            steps += [cache.wipe for cache in caches.values()]
        steps += [partial(cache.close, keep=tips[name]) for name, cache in caches.items()]
        for step in steps:
            # twice: what has not even begun would leave its slots behind
            for _ in range(2):
                try:
                    step()
                except BaseException:
                    logger.warning("something failed while a request was closed", exc_info=True)
                else:
                    break
