"""DeAL: choose every token by what becomes of it, as a process reward model sees it."""

import math
from collections.abc import Generator
from dataclasses import replace

import torch

from langchain_saffron.search.decoding import out_of_budget
from langchain_saffron.search.portions import rewards_in_portions
from langchain_saffron.search.protocol import Expand, Node, Scores, Search, SearchInputs
from langchain_saffron.search.room import Room
from langchain_saffron.search.sampling import Response, in_time, nodes_of, nucleus_probabilities, policy_logits


def deal_search(inputs: SearchInputs) -> Search:
    """Decoding-time alignment by lookahead (Huang et al. 2024, arXiv 2402.06147; a baseline of the paper, section 5.1).

    At every token, the `width` likeliest tokens of the nucleus are followed greedily for `lookahead` tokens, the
    process reward model scores where each leads, and the best is taken: by `log p + safety_weight · min(R, threshold)`,
    or, with `ranking="paper"`, by `R` alone. Where the nucleus holds one token, there is nothing to choose.

    Args:
        inputs: The settings, `safety_threshold` filled in; the end tokens, the budget.

    Returns:
        The search; a token is final as soon as it is chosen.
    """
    search = _Lookahead(inputs)
    return search.room.told_in((yield from search.run()))


class _Lookahead:
    """The state of one search."""

    def __init__(self, inputs: SearchInputs) -> None:
        self.inputs = inputs
        self.settings = inputs.settings
        self.chosen = Response(state=inputs.constraint)
        self.widest = 1
        self.room = Room(inputs.settings.width)
        self._committed = 0

    def run(self) -> Search:
        """Choose token after token; ask for the whole answer's reward at the end."""
        inputs, budget = self.inputs, self.inputs.budget
        # the policy's scores after the chosen token, where a rollout has brought them
        logits: torch.Tensor | None = None
        while not self.chosen.finished and len(self.chosen.tokens) < inputs.max_tokens:
            length = len(self.chosen.tokens)
            if logits is None:
                if not budget.affords(1, length, prm_calls=1):
                    return out_of_budget(self.chosen, inputs, self.widest)
                logits = (yield self._expand((self.chosen.node,))).logits[0]
            kept, order = nucleus_probabilities(policy_logits(logits, self.chosen, inputs), inputs)
            width = budget.width(self.settings.width, length, inputs.max_tokens - length)
            count = min(width, int((kept > 0).sum()))
            chances = dict(zip(order.tolist(), kept.tolist(), strict=True))
            tokens = in_time(self.chosen, order[:count].tolist(), inputs)
            count = len(tokens)
            first = [self.chosen.grow(token, inputs) for token in tokens]
            inputs.record([one.tokens for one in first])
            logits = None
            if count == 1:
                self.chosen = first[0]
                continue
            lookahead = yield from self._look(first)
            if lookahead is None:
                return out_of_budget(self.chosen, inputs, self.widest)
            rewards, following = lookahead
            best = max(rewards, key=lambda i: self._score(chances[tokens[i]], rewards[i]))
            self.chosen = first[best].with_reward(rewards[best])
            logits = following.get(self.chosen.node)
        if budget.affords(0, len(self.chosen.tokens), prm_calls=1):
            said = self.chosen.said(inputs)
            (reward,) = yield from rewards_in_portions(self._expand((), retain=(said,), prm_nodes=(said,)))
            self.chosen = self.chosen.with_reward(reward)
        return self.chosen.answer(width=self.widest)

    def _look(
        self, first: list[Response]
    ) -> Generator[Expand, Scores, tuple[dict[int, float], dict[Node, torch.Tensor]] | None]:
        """The rewards of where some next tokens lead, and the policy's scores after those; `None`: no budget.

        Of the tokens, as places among them, the likeliest ones for whose rollouts the cache has room.
        """
        inputs, budget = self.inputs, self.inputs.budget
        ahead, following = dict(enumerate(first)), dict[Node, torch.Tensor]()
        starts = (self.chosen.node, *nodes_of(first))
        for step in range(self.settings.lookahead):
            live = [one for one in ahead.values() if not one.finished and len(one.tokens) < inputs.max_tokens]
            if not live:
                break
            nodes = nodes_of(live)
            if not budget.affords(len(nodes), len(live[0].tokens), prm_calls=len(ahead)):
                return None
            asking = self._expand(nodes, retain=(*starts, *nodes_of(list(ahead.values()))))
            scores = yield replace(asking, least=min(self.settings.least_width, len(nodes)))
            rows = dict(zip(nodes, scores.logits, strict=False))
            self.room.note(len(nodes), len(rows))
            self.widest = max(self.widest, len(rows))
            lost = {one.node for one in live if one.node not in rows}
            if step == 0:
                following = rows
            ahead = {
                i: self._follow(one, rows[one.node]) if one.node in rows else one
                for i, one in ahead.items()
                if one.node not in lost
            }
        length = len(next(iter(ahead.values())).tokens)
        if not budget.affords(0, length, prm_calls=len(ahead)):
            return None
        said = tuple(one.said(inputs) for one in ahead.values())
        rewards = yield from rewards_in_portions(self._expand((), retain=starts, prm_nodes=said))
        return dict(zip(ahead, rewards, strict=True)), following

    def _follow(self, response: Response, logits: torch.Tensor) -> Response:
        token = int(policy_logits(logits, response, self.inputs).argmax())
        return response.grow(in_time(response, [token], self.inputs)[0], self.inputs)

    def _expand(
        self, nodes: tuple[Node, ...], retain: tuple[Node, ...] = (), prm_nodes: tuple[Node, ...] = ()
    ) -> Expand:
        """A request that also says what has become final."""
        fresh = self.chosen.tokens[self._committed :]
        self._committed = len(self.chosen.tokens)
        return Expand(nodes, retain, fresh, prm_nodes)

    def _score(self, probability: float, reward: float) -> float:
        if self.settings.ranking == "paper":
            return reward
        assert self.settings.safety_threshold is not None
        return math.log(probability) + self.settings.safety_weight * min(reward, self.settings.safety_threshold)
