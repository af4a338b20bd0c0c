"""One tick: collect what every live search wants scored, run the models once, send the scores back."""

import logging
import time
from collections import deque
from collections.abc import Callable

import torch

from langchain_saffron.engine.branch import Branch
from langchain_saffron.engine.request import Delta, Done, Failed, Request
from langchain_saffron.engine.result import SearchResult
from langchain_saffron.errors import BudgetError, NumericalError, RequestCancelledError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import Answer, Expand, Scores

logger = logging.getLogger(__name__)

POLICY, REWARD = "policy", "reward"


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
        prefill_rows: int = 256,
    ) -> None:
        """Take the models.

        Args:
            policy: The policy over its cache.
            reward: The reward model over its own, if there is one.
            to_rewards: Turns the reward model's logits into rewards over the policy's vocabulary.
            prefill_rows: Prompt tokens that one tick computes at most, so that long prompts do not stall others.
        """
        self._decoders = {POLICY: policy} if reward is None else {POLICY: policy, REWARD: reward}
        self._to_rewards = to_rewards
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
        for name, decoder in self._decoders.items():
            self._score([r for r in self._active if name in r.waiting_for], name, decoder)
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
            prompt = prompts[name]
            if prompt is not None:
                request.branches[name] = Branch(decoder, prompt, request.salt)
        request.stats.cached_prompt = request.branches[POLICY].cached
        request.stats.cached_tokens = sum(b.cached for b in request.branches.values())
        limit = request.inputs.purse.budget.max_tflops
        if limit is not None:
            cost = sum(_prompt_cost(branch) for branch in request.branches.values())
            if cost > limit:
                raise BudgetError(f"max_tflops={limit:g} does not cover the prompt, which takes {cost:g} TFLOP")
        request.search = request.start(request.inputs)
        self._demand(request, next(request.search))

    def _demand(self, request: Request, expand: Expand) -> None:
        if expand.committed:
            request.committed += len(expand.committed)
            self._say(request, expand.committed)
        for branch in request.branches.values():
            branch.expand(expand.nodes, expand.retain)
        request.scored = {}

    def _score(self, requests: list[Request], name: str, decoder: TrieDecoder) -> None:
        if not requests:
            return
        try:
            self._forward(requests, name, decoder)
        except Exception as error:
            if len(requests) == 1:
                self._fail(requests[0], error, keep_prompt=not isinstance(error, NumericalError))
                return
            # whose rows are to blame? each alone: the others must not suffer for it
            logger.warning("a shared forward of the %s failed; its requests are tried one by one", decoder.name)
            for request in requests:
                self._score([request], name, decoder)

    def _forward(self, requests: list[Request], name: str, decoder: TrieDecoder) -> None:
        index: dict[int, int] = {}
        ready: list[Request] = []
        room = self._prefill_rows
        spent: list[tuple[Request, list[int], int]] = []
        for request in requests:
            branch = request.branches[name]
            missing = [slot for slot in branch.missing_prompt() if slot not in index]
            chunk = missing[:room]
            room -= len(chunk)
            rows = chunk
            scored = 0
            if len(chunk) == len(missing):
                rows = [*chunk, *(slot for slot in branch.frontier if slot not in index)]
                scored = len(branch.frontier)
                ready.append(request)
            for slot in rows:
                index.setdefault(slot, len(index))
            spent.append((request, rows, scored))
        if not index:
            return
        places = list(dict.fromkeys(index[slot] for r in ready for slot in r.branches[name].frontier))
        rows_computed = list(index)
        self.forwards[name] += 1
        groups = [len(rows) for _, rows, _ in spent if rows]
        logits = decoder.forward(rows_computed, places, groups)
        if bool(logits.isnan().any()):
            # what a masked slot holds is multiplied by zero, which NaN survives: nothing of it may stay
            decoder.forget(rows_computed)
            raise NumericalError(
                f"the {decoder.name} returned NaN: its weights may be damaged, or its dtype too narrow "
                "(try dtype='float32')"
            )
        for request, rows, scored in spent:
            self._pay(request, name, decoder, rows, scored)
        where = {place: i for i, place in enumerate(places)}
        for request in ready:
            own = logits[[where[index[slot]] for slot in request.branches[name].frontier]]
            request.scored[name] = self._to_rewards(own) if name == REWARD and self._to_rewards else own

    def _pay(self, request: Request, name: str, decoder: TrieDecoder, rows: list[int], scored: int) -> None:
        if not rows and not scored:
            return
        tflops = decoder.cost(rows, scored) if rows else 0.0
        calls = scored if name == REWARD else 0
        request.inputs.purse.pay(tflops, calls, rows=scored if name == POLICY else 0)
        stats = request.stats
        stats.tflops += tflops
        if name == POLICY:
            stats.policy_calls += scored
            stats.policy_tokens += len(rows)
        else:
            stats.reward_calls += scored
            stats.reward_tokens += len(rows)

    def _advance(self, request: Request) -> None:
        assert request.search is not None
        scores = Scores(request.scored[POLICY], request.scored.get(REWARD))
        try:
            expand = request.search.send(scores)
            self._demand(request, expand)
        except StopIteration as end:
            self._finish(request, end.value)
        except Exception as error:
            self._fail(request, error)

    def _finish(self, request: Request, answer: Answer) -> None:
        stream, settings = request.stream, request.inputs.settings
        self._say(request, answer.tokens[request.committed :])
        self._emit(request, stream.finish())
        if answer.finish_reason == "refusal":
            gap = "" if not stream.text or stream.text[-1].isspace() else " "
            self._emit(request, stream.add(gap + settings.refusal_text))
        request.stats.close(answer, request.inputs.purse.seconds)
        self._retire(request, answer)
        result = SearchResult(
            list(answer.tokens), stream.text, answer.reward, answer.finish_reason, request.inputs.trace, request.stats
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
            for branch in request.branches.values():
                branch.wipe()
        self._retire(request, None)
        self._send(request, Failed(error))

    def _retire(self, request: Request, answer: Answer | None) -> None:
        """Give everything back that the request holds."""
        if request.search is not None:
            request.search.close()
        for branch in request.branches.values():
            branch.close(keep=answer.node if answer else None)
        request.branches = {}
        if request in self._active:
            self._active.remove(request)


def _prompt_cost(branch: Branch) -> float:
    """TFLOP of what the cache lacks of a prompt, its last token's score included."""
    return branch.decoder.cost([*branch.missing_prompt(), branch.prompt_end], 1)
