"""Responses in the making, for the searches whose candidates are drawn from the policy and scored as wholes."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.constraint import Constraint, constrain, leaves_room, permitted
from langchain_saffron.search.node import ROOT
from langchain_saffron.search.nucleus import CHUNK, inside_sorted
from langchain_saffron.search.protocol import Answer, FinishReason, Node, SearchInputs


@dataclass(frozen=True, slots=True)
class Response:
    """A response, unfinished or not.

    Attributes:
        node: Its handle.
        tokens: Its token ids, the end-of-turn token included where there is one.
        state: Where it stands in the grammar, if there is one.
        finished: Whether it has ended its turn or completed a stop string or its document.
        reward: What a process reward model says of it; `None` if it was not asked.
        min_reward: The lowest such reward on its path.
    """

    node: Node = ROOT
    tokens: tuple[int, ...] = ()
    state: Constraint | None = None
    finished: bool = False
    reward: float | None = None
    min_reward: float = math.inf

    def grow(self, token: int, inputs: SearchInputs) -> "Response":
        """This response followed by `token`."""
        tokens = (*self.tokens, token)
        ended = token in inputs.end_tokens
        state = self.state if ended or self.state is None else self.state.advance(token)
        finished = ended or (state is not None and state.done) or inputs.stops(tokens)
        return Response(self.node.child(token), tokens, state, finished, None, self.min_reward)

    def with_reward(self, reward: float) -> "Response":
        """This response with its reward."""
        return replace(self, reward=reward, min_reward=min(self.min_reward, reward))

    def said(self, inputs: SearchInputs) -> Node:
        """The node of what has been said: an end-of-turn token is no part of it."""
        if self.tokens and self.tokens[-1] in inputs.end_tokens:
            assert self.node.parent is not None
            return self.node.parent
        return self.node

    def answer(self, reason: FinishReason | None = None, width: int = 1) -> Answer:
        """This response as the end of a search.

        Args:
            reason: Why it ends; `None` for what the response itself says.
            width: The most nodes that were scored at once.
        """
        return Answer(
            self.tokens,
            reason or ("stop" if self.finished else "length"),
            reward=self.reward,
            min_reward=self.min_reward if math.isfinite(self.min_reward) else None,
            node=self.node,
            budget_exhausted=reason in ("budget", "refusal"),
            width=width,
            complete=self.state is None or (self.state.accepting and reason != "refusal"),
        )


def policy_logits(logits: torch.Tensor, response: Response, inputs: SearchInputs) -> torch.Tensor:
    """The policy's logits for the next token of a response, as plain decoding takes them.

    Args:
        logits: float32 [vocabulary]; left as they are.
        response: What has been said so far.
        inputs: The repetition penalty, the earliest end, the end tokens.

    Returns:
        float32 [vocabulary], `-inf` where the grammar or `min_tokens` forbid.
    """
    logits = logits.clone()
    if inputs.repetition_penalty != 1.0:
        ids = torch.tensor(sorted({*inputs.prompt, *response.tokens}), device=logits.device)
        old = logits[ids]
        logits[ids] = torch.where(old < 0, old * inputs.repetition_penalty, old / inputs.repetition_penalty)
    may_end = len(response.tokens) >= inputs.settings.min_tokens
    if response.state is not None:
        mask = permitted([response.state], inputs.end_tokens, may_end, inputs.max_tokens - len(response.tokens))
        return constrain(logits[None], upload(mask, torch.bool, logits.device))[0]
    if not may_end:
        logits[list(inputs.end_tokens)] = -torch.inf
    return logits


def in_time(response: Response, tokens: Iterable[int], inputs: SearchInputs) -> list[int]:
    """Next tokens that leave a document enough room to become whole before `max_tokens`.

    Args:
        response: What has been said so far.
        tokens: Candidates, best first.
        inputs: The end tokens and how many tokens there may be.

    Returns:
        Those that do; where none does, the one that closes the document fastest, or ends it where it is whole.
    """
    tokens = list(tokens)
    state, left = response.state, inputs.max_tokens - len(response.tokens) - 1
    if state is None:
        return tokens
    ends = inputs.end_tokens
    kept = [one for one in tokens if one in ends or leaves_room(state, state.advance(one), left, ends)]
    if kept or not tokens:
        return kept
    end = state.shortest()
    assert end is not None, "a response that can become whole in time has a shortest end"
    return [end[0] if end else ends[0]]


def nucleus_probabilities(logits: torch.Tensor, inputs: SearchInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The nucleus of the tempered distribution, not renormalised.

    Returns:
        Probabilities, most likely first, zero outside the nucleus; and their ids. Both hold the nucleus at least, and
        the vocabulary at most.
    """
    settings = inputs.settings
    probabilities = torch.softmax(logits / (settings.temperature or 1.0), dim=-1)
    if settings.top_p >= 1:
        kept, order = probabilities.sort(descending=True)
        return kept.cpu(), order.cpu()
    # a nucleus is small, nearly always, and then sorting everything costs many times as much
    likeliest, order = probabilities.topk(min(CHUNK, len(probabilities)))
    if likeliest.sum() < settings.top_p:
        likeliest, order = probabilities.sort(descending=True)
    return torch.where(inside_sorted(likeliest, settings.top_p), likeliest, 0.0).cpu(), order.cpu()


def draw(logits: torch.Tensor, inputs: SearchInputs, generator: torch.Generator, count: int = 1) -> list[int]:
    """Up to `count` different tokens from the nucleus, without replacement."""
    kept, order = nucleus_probabilities(logits, inputs)
    count = min(count, int((kept > 0).sum()))
    return [int(order[place]) for place in torch.multinomial(kept, count, generator=generator)]


def seeded(inputs: SearchInputs) -> torch.Generator:
    """The source of a search's chance: the seed that was set, else a fresh one."""
    generator = torch.Generator()
    if inputs.settings.seed is None:
        generator.seed()
    else:
        generator.manual_seed(_seed(inputs.settings.seed))
    return generator


def _seed(given: int) -> int:
    """Any integer as one of the 32 bits that torch looks at: itself, else a hash, so that none falls on a small one."""
    if 0 <= given < 2**32:
        return given
    return int.from_bytes(hashlib.sha256(str(given).encode()).digest()[:8])


def safest(responses: Iterable[Response]) -> Response:
    """The response of the highest reward; the first one of equals. Whole documents come before broken ones."""
    return max(responses, key=lambda one: (one.finished or one.state is None or one.state.accepting, one.reward or 0.0))


def nodes_of(responses: Sequence[Response]) -> tuple[Node, ...]:
    """Their nodes, each once."""
    return tuple(dict.fromkeys(response.node for response in responses))
