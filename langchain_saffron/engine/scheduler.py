"""One tick: collect what every live search wants scored, run the models once, send the scores back."""

import logging
import time
from collections import deque
from collections.abc import Callable

import torch

from langchain_saffron.engine.forward_batch import SharedForward, read_flags
from langchain_saffron.engine.prm_cache import PrmScorer
from langchain_saffron.engine.request import Delta, Done, Failed, Request
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.engine.result import RefusalText, SearchResult
from langchain_saffron.errors import BudgetError, NumericalError, RequestCancelledError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import Answer, Expand, Scores

logger = logging.getLogger(__name__)

POLICY, REWARD, PRM = "policy", "reward", "prm"


class Scheduler:
    """Runs many searches over the same forwards; lives on the engine's one thread.

    Attributes:
        forwards: Forwards by model, so that sharing can be checked.
    """

    def __init__(
        self,
        policy: TrieDecoder,
        reward: TrieDecoder | None,
        to_rewards: Callable[[torch.Tensor], torch.Tensor] | None,
        prm: PrmScorer | None = None,
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
        self._translate = {REWARD: to_rewards, PRM: prm.rewards if prm else None}
        self._prefill_rows = prefill_rows
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []
        self.forwards = dict.fromkeys(self._decoders, 0)

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
        self._score()
        for request in [r for r in self._active if not r.waiting_for]:
            self._advance(request)

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
                self._fail(request, TimeoutError("the request ran into its timeout; raise timeout= or lower effort="))

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
            except Exception as error:
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
            cost = sum(_prompt_cost(cache) for cache in request.caches.values())
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

    def _score(self) -> None:
        """Run every model once for the requests that wait for it."""
        forwards: list[SharedForward] = []
        for name in self._decoders:
            waiting = [request for request in self._active if name in request.waiting_for]
            forward = self._attempt(waiting, name)
            if forward is not None:
                forwards.append(forward)
        # one look at the device for all models
        for forward, damaged in zip(forwards, read_flags(forwards), strict=True):
            if not damaged:
                self._settle(forward)
                continue
            forward.forget()
            # whose rows are to blame? each alone: the others must not suffer for it
            logger.warning("the %s returned NaN", forward.decoder.name)
            for request in forward.requests:
                self._score_alone(request, forward.name)

    def _attempt(self, requests: list[Request], name: str) -> SharedForward | None:
        """A forward for several requests, or, where it fails, for each alone."""
        try:
            forward = SharedForward.run(requests, name, self._decoders[name], self._prefill_rows)
        except Exception as error:
            if len(requests) == 1:
                self._fail(requests[0], error)
                return None
            logger.warning("a shared forward of the %s failed; its requests are tried one by one", name)
            for request in requests:
                self._score_alone(request, name)
            return None
        self.forwards[name] += forward is not None
        return forward

    def _score_alone(self, request: Request, name: str) -> None:
        forward = self._attempt([request], name)
        if forward is None:
            return
        if not any(read_flags([forward])):
            self._settle(forward)
            return
        forward.forget()
        error = NumericalError(
            f"the {forward.decoder.name} returned NaN: its weights may be damaged, or its dtype too narrow "
            "(try dtype='float32')"
        )
        self._fail(request, error, keep_prompt=False)

    def _settle(self, forward: SharedForward) -> None:
        for request, rows, scored in forward.spent:
            self._pay(request, forward.name, forward.decoder, rows, scored)
        for request, logits in forward.scores():
            translate = self._translate.get(forward.name)
            request.scored[forward.name] = translate(logits) if translate else logits

    def _pay(self, request: Request, name: str, decoder: TrieDecoder, rows: list[int], scored: int) -> None:
        if not rows and not scored:
            return
        tflops = decoder.cost(rows, scored) if rows else 0.0
        calls = 0 if name == POLICY else scored
        request.inputs.budget.spend(tflops, calls, rows=scored if name == POLICY else 0)
        stats = request.stats
        stats.tflops += tflops
        if name == POLICY:
            stats.policy_calls += scored
            stats.policy_tokens += len(rows)
        else:
            stats.reward_calls += scored
            stats.reward_tokens += len(rows)

    def _advance(self, request: Request) -> None:
        scores = Scores(request.scored[POLICY], request.scored.get(REWARD), request.scored.get(PRM))
        try:
            self._step(request, scores)
        except Exception as error:
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
        except Exception:
            # nobody listens any more (a closed event loop): as good as cancelled
            request.cancelled.set()

    def _fail(self, request: Request, error: BaseException, keep_prompt: bool = True) -> None:
        if request in self._waiting:
            self._waiting.remove(request)
        if not keep_prompt:
            for cache in request.caches.values():
                cache.wipe()
        self._retire(request, None)
        self._send(request, Failed(error))

    def _retire(self, request: Request, answer: Answer | None) -> None:
        """Give everything back that the request holds."""
        if request.search is not None:
            request.search.close()
        for cache in request.caches.values():
            cache.close(keep=answer.node if answer else None)
        request.caches = {}
        if request in self._active:
            self._active.remove(request)


def _prompt_cost(cache: RequestCache) -> float:
    """TFLOP of what the cache lacks of a prompt, its last token's score included."""
    return cache.decoder.cost([*cache.missing_prompt(), cache.prompt_end], 1)
