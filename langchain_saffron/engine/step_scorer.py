"""One step of all requests: every model runs once, and what fails ends only the request whose fault it is."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from langchain_saffron.engine.candidate_rewards import Spend
from langchain_saffron.engine.forward_batch import SharedForward, read_flags
from langchain_saffron.engine.request import POLICY, PRM, REWARD, Request
from langchain_saffron.errors import EngineFailedError, ModelMemoryError, NumericalError, SaffronError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.runtime.memory import is_out_of_memory
from langchain_saffron.search.rewards import Rewards

logger = logging.getLogger(__name__)

# from a model's logits or states, and what books later products, to what the search reads
Translate = Callable[[torch.Tensor, Spend], torch.Tensor | Rewards]


class StepScorer:
    """Scores the frontiers of many requests by one forward a model.

    A forward that fails, or whose scores do, is tried again for each of its requests alone.

    Attributes:
        forwards: Forwards by model, so that sharing can be checked.
    """

    def __init__(
        self,
        decoders: Mapping[str, TrieDecoder],
        translate: Mapping[str, Translate | None],
        fail: Callable[[Request, BaseException, bool], None],
        prefill_rows: int,
        head: Translate | None = None,
    ) -> None:
        """Take the models.

        Args:
            decoders: By name.
            translate: From a model's logits [rows, outputs] or states to what the search reads, where that is something
                else.
            fail: Ends a request by an error; the last argument is whether what was computed of its prompt may stay.
            prefill_rows: Prompt tokens that one step computes at most, so that long prompts do not stall others.
            head: Makes rewards of the states that the policy's tap gives, where a head is the reward model.
        """
        self._head = head
        self._decoders = decoders
        self._translate = translate
        self._fail = fail
        self._prefill_rows = prefill_rows
        self.forwards = dict.fromkeys(decoders, 0)

    def score(self, requests: list[Request]) -> None:
        """Run every model once for those of the requests that wait for it.

        Args:
            requests: All that are live. Their scores are in `Request.scored` afterwards, where their prompts are
                complete; those that could not be scored have failed.
        """
        forwards: list[SharedForward] = []
        for name in self._decoders:
            forward = self._attempt([request for request in requests if name in request.waiting_for], name)
            if forward is not None:
                forwards.append(forward)
        # one look at the device for all models
        for forward, damaged in zip(forwards, self._damaged(forwards), strict=True):
            try:
                if damaged:
                    # whose rows are to blame? each alone: the others must not suffer for it
                    logger.warning("the %s returned NaN or infinity", forward.decoder.name)
                    forward.forget()
                    self._score_one_by_one(forward)
                else:
                    self._settle(forward)
            except BaseException as error:
                self._blame(forward, error)

    def _attempt(self, requests: list[Request], name: str) -> SharedForward | None:
        """A forward for several requests, or, where it fails, for each alone."""
        try:
            forward = SharedForward.run(requests, name, self._decoders[name], self._prefill_rows)
        except BaseException as error:
            if len(requests) == 1:
                self._fail(requests[0], error, True)
                return None
            logger.warning("a shared forward of the %s failed; its requests are tried one by one", name)
            for request in requests:
                self._score_alone(request, name)
            return None
        self.forwards[name] += forward is not None
        return forward

    def _damaged(self, forwards: list[SharedForward]) -> list[bool]:
        """Which forwards returned NaN or infinity; all of them where the device does not even tell that."""
        try:
            return read_flags(forwards)
        except BaseException:
            logger.warning("the flags of a step could not be read", exc_info=True)
            return [True] * len(forwards)

    def _blame(self, forward: SharedForward, error: BaseException) -> None:
        """What fails after a forward is the fault of one of its requests: which, each alone will tell."""
        if len(forward.requests) == 1:
            self._fail(forward.requests[0], error, True)
        else:
            logger.warning("a shared step of the %s failed; its requests are tried one by one", forward.decoder.name)
            self._score_one_by_one(forward)

    def _score_one_by_one(self, forward: SharedForward) -> None:
        for request in forward.requests:
            if forward.name in request.waiting_for:
                self._score_alone(request, forward.name)

    def _score_alone(self, request: Request, name: str) -> None:
        forward = self._attempt([request], name)
        if forward is None:
            return
        try:
            if not any(read_flags([forward])):
                self._settle(forward)
                return
            forward.forget()
        except BaseException as error:
            self._fail(request, error, True)
            return
        self._fail(request, NumericalError.of_scores(forward.decoder.name), False)

    def _settle(self, forward: SharedForward) -> None:
        """Book what a forward cost, and give the requests their scores: both or, where something fails, neither."""
        decoder, translate = forward.decoder, self._translate.get(forward.name)
        scores: list[tuple[Request, dict[str, Any]]] = []
        for request, outputs, tapped in forward.scores():
            later = partial(spend_later, request)
            found: dict[str, Any] = {forward.name: translate(outputs, later) if translate else outputs}
            if tapped is not None and self._head is not None and request.inputs.settings.needs_reward_model:
                found[REWARD] = self._head(tapped, later)
            scores.append((request, found))
        # of states the product with the unembedding is still to come
        whole = decoder.unembedding is None
        costs = [decoder.cost(rows, scored * whole) if rows else 0.0 for _, rows, scored in forward.spent]
        for (request, rows, scored), tflops in zip(forward.spent, costs, strict=True):
            if rows or scored:
                _pay(request, forward.name, tflops, len(rows), scored)
        for request, found in scores:
            request.scored.update(found)
            request.stats.reward_calls += len(found[POLICY]) if self._head is not None and REWARD in found else 0


def typed_error(error: BaseException) -> Exception:
    """An error that callers can expect: ours as they are, and whatever else as one of ours with that as its cause."""
    if isinstance(error, SaffronError):
        return error
    kind = ModelMemoryError if is_out_of_memory(error) else EngineFailedError
    typed = kind(f"the engine could not answer ({type(error).__name__}: {error})")
    typed.__cause__ = error
    return typed


def spend_later(request: Request, flops: float, rows: int) -> None:
    """Book a product of some nodes that a search asked for when it had their scores."""
    request.stats.tflops += flops / 1e12
    request.inputs.budget.spend_later(flops / 1e12, rows)


def _pay(request: Request, name: str, tflops: float, rows: int, scored: int) -> None:
    stats = request.stats
    stats.tflops += tflops
    if name == POLICY:
        stats.policy_calls += scored
        stats.policy_tokens += rows
    else:
        stats.reward_calls += scored
        stats.reward_tokens += rows
        stats.prm_tflops += tflops if name == PRM else 0.0
