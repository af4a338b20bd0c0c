"""One tick: collect what every live search wants scored, run the models once, send the scores back."""

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import torch

from langchain_saffron.engine.prm_cache import PrmScorer
from langchain_saffron.engine.prm_function import FunctionScorer
from langchain_saffron.engine.request import Delta, Done, Failed, Request
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.engine.result import RefusalText, SearchResult
from langchain_saffron.engine.step_scorer import POLICY, PRM, REWARD, StepScorer, typed_error
from langchain_saffron.errors import BudgetError, RequestCancelledError, RequestTimeoutError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import Answer, Expand, Scores

logger = logging.getLogger(__name__)

TIMED_OUT = "the request ran into its timeout; raise timeout= or lower effort="


class Scheduler:
    """Runs many searches over the same forwards; lives on the engine's one thread."""

    def __init__(
        self,
        policy: TrieDecoder,
        reward: TrieDecoder | None,
        to_rewards: Callable[[torch.Tensor], torch.Tensor] | None,
        prm: PrmScorer | FunctionScorer | None = None,
        prefill_rows: int = 256,
    ) -> None:
        """Take the models.

        Args:
            policy: The policy over its cache.
            reward: The reward model over its own, if there is one.
            to_rewards: Turns the reward model's logits into rewards over the policy's vocabulary.
            prm: The process reward model, if there is one.
            prefill_rows: Prompt tokens that one tick computes at most, so that long prompts do not stall others.
        """
        models = {POLICY: policy, REWARD: reward, PRM: prm.decoder if prm else None}
        self._decoders = {name: decoder for name, decoder in models.items() if decoder is not None}
        self._prm = prm
        translate = {REWARD: to_rewards, PRM: prm.rewards if isinstance(prm, PrmScorer) else None}
        self._scorer = StepScorer(self._decoders, translate, self._fail, prefill_rows)
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []

    @property
    def forwards(self) -> dict[str, int]:
        """Forwards by model, so that sharing can be checked."""
        return self._scorer.forwards

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._waiting or self._active)

    def admit(self, request: Request) -> None:
        """Take a request in; it starts as soon as its slots fit."""
        self._waiting.append(request)

    def tick(self) -> None:
        """Advance every live request by at most one step."""
        self._drop_ended()
        self._start_waiting()
        self._scorer.score(list(self._active))
        if isinstance(self._prm, FunctionScorer):
            self._prm.score([r for r in self._active if PRM in r.waiting_for], PRM, self._fail)
        for request in [r for r in self._active if not r.waiting_for]:
            self._advance(request)

    @property
    def on_cpu(self) -> bool:
        """Whether all models are on the CPU."""
        return all(decoder.device.type == "cpu" for decoder in self._decoders.values())

    def reset(self) -> None:
        """Forget all requests and all that is cached: for a forked child, or after an error at an unknown place."""
        self._waiting.clear()
        self._active.clear()
        for decoder in self._decoders.values():
            decoder.clear()

    def fail_all(self, error: BaseException) -> None:
        """End every request with `error`."""
        for request in [*self._waiting, *self._active]:
            self._fail(request, error)
        self._waiting.clear()

    def _drop_ended(self) -> None:
        now = time.perf_counter()
        for request in [*self._waiting, *self._active]:
            if request.cancelled.is_set():
                self._fail(request, RequestCancelledError("the request was cancelled"))
            elif request.deadline is not None and now > request.deadline:
                self._fail(request, RequestTimeoutError(TIMED_OUT))

    def _start_waiting(self) -> None:
        capacity = min(d.forest.capacity for d in self._decoders.values())
        while self._waiting:
            reserved = sum(r.slots_needed for r in self._active)
            if self._active and reserved + self._waiting[0].slots_needed > capacity:
                break
            request = self._waiting.popleft()
            self._active.append(request)
            try:
                self._begin(request)
            except BaseException as error:
                self._fail(request, error)

    def _begin(self, request: Request) -> None:
        prompts = {POLICY: request.policy_ids, REWARD: request.reward_ids}
        for name, decoder in self._decoders.items():
            prompt = prompts.get(name)
            if prompt is not None:
                request.caches[name] = RequestCache(decoder, prompt, request.salt)
        if self._prm is not None and request.prm_ids is not None:
            request.caches[PRM] = self._prm.cache(request.prm_ids, request.salt)
        request.stats.cached_prompt = request.caches[POLICY].cached
        request.stats.cached_tokens = sum(b.cached for b in request.caches.values())
        limit = request.inputs.budget.limits.max_tflops
        if limit is not None:
            cost = sum(cache.prompt_cost() for cache in request.caches.values())
            if cost > limit:
                raise BudgetError(f"max_tflops={limit:g} does not cover the prompt, which takes {cost:g} TFLOP")
        request.search = request.start(request.inputs)
        self._step(request, None)

    def _demand(self, request: Request, expand: Expand) -> None:
        if expand.committed:
            request.committed += len(expand.committed)
            self._say(request, expand.committed)
        for cache in request.caches.values():
            cache.expand(expand)
        # a model that is asked nothing has answered
        request.scored = {name: torch.empty(0) for name, cache in request.caches.items() if not cache.frontier}

    def _advance(self, request: Request) -> None:
        scores = Scores(request.scored[POLICY], request.scored.get(REWARD), request.scored.get(PRM))
        try:
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
        stream, settings = request.stream, request.inputs.settings
        self._say(request, answer.tokens[request.committed :])
        self._emit(request, stream.finish())
        if answer.finish_reason == "refusal":
            gap = "" if not stream.text or stream.text[-1].isspace() else " "
            self._emit(request, RefusalText(stream.add(gap + settings.refusal_text)))
        request.stats.close(answer, request.inputs.budget.seconds)
        self._retire(request, answer)
        constraint = request.inputs.constraint
        # a stop string is not part of the text: what is left may be a whole document or not
        complete = constraint.accepts(stream.text) if constraint and stream.stopped else answer.complete
        result = SearchResult(
            list(answer.tokens),
            stream.text,
            answer.reward,
            answer.finish_reason,
            request.inputs.trace,
            request.stats,
            complete,
        )
        self._send(request, Done(result))

    def _say(self, request: Request, tokens: tuple[int, ...]) -> None:
        # a piece a token, also where many become final at once: what listens expects a token's worth of text
        for token in tokens:
            if token not in request.inputs.end_tokens:
                self._emit(request, request.stream.push((token,)))

    def _emit(self, request: Request, text: str) -> None:
        if text:
            self._send(request, Delta(text))

    def _send(self, request: Request, event: Delta | Done | Failed) -> None:
        try:
            request.send(event)
        except BaseException:
            # nobody listens any more (a closed event loop): as good as cancelled
            request.cancelled.set()

    def _fail(self, request: Request, error: BaseException, keep_prompt: bool = True) -> None:
        if request in self._waiting:
            self._waiting.remove(request)
        self._retire(request, None, keep_prompt)
        self._send(request, Failed(typed_error(error)))

    def _retire(self, request: Request, answer: Answer | None, keep_prompt: bool = True) -> None:
        """Give everything back that the request holds, whatever fails on the way."""
        if request in self._active:
            self._active.remove(request)
        caches, request.caches = list(request.caches.values()), {}
        steps: list[Callable[[], None]] = [] if request.search is None else [request.search.close]
        if not keep_prompt:
            steps += [cache.wipe for cache in caches]
        steps += [partial(cache.close, keep=answer.node if answer else None) for cache in caches]
        for step in steps:
            try:
                step()
            except BaseException:
                logger.warning("something failed while a request was closed", exc_info=True)
