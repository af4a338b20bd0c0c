"""The protocol between a search and whoever scores its nodes."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias

import torch

from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.constraint import Constraint
from langchain_saffron.search.node import Node
from langchain_saffron.search.recorder import Recorder
from langchain_saffron.search.rewards import Rewards
from langchain_saffron.settings import SearchSettings

FinishReason = Literal["stop", "length", "refusal", "budget"]


@dataclass(frozen=True, slots=True)
class Expand:
    """What a search asks for: the next-token scores of some nodes.

    Attributes:
        nodes: The nodes to score; none where only the process reward model is asked. What is neither here, nor in
            `retain`, `spare` or `prm_nodes`, nor above those, is forgotten.
        retain: Nodes that stay in the cache without being scored.
        spare: Nodes that do so as long as the cache has room: nodes below them may be asked for later.
        committed: Response tokens that became final since the last request.
        prm_nodes: Nodes whose prefixes a process reward model is to score as they stand.
        least: Of `nodes`, and of `prm_nodes`, this many have to be scored. Where the cache has no room for all of them
            the first ones are, as many as there is room for: scores have so many rows. `None` for all, or a
            `CacheFullError`. Before it comes to that, what is in `retain` is forgotten; it is computed again where
            that is asked for.
    """

    nodes: tuple[Node, ...]
    retain: tuple[Node, ...] = ()
    committed: tuple[int, ...] = ()
    prm_nodes: tuple[Node, ...] = ()
    spare: tuple[Node, ...] = ()
    least: int | None = None

    def first(self, count: int) -> "Expand":
        """The same of the first `count` nodes alone."""
        return replace(self, nodes=self.nodes[:count], prm_nodes=self.prm_nodes[:count])


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer to an `Expand`.

    Attributes:
        logits: float32 [nodes, vocabulary]: the policy's; fewer rows where `Expand.least` allows that.
        predicted: The reward model's `M(s)`, computed for the tokens that are asked for; `None` without one.
        prm_rewards: float32 [prm_nodes]: the process reward model's `R(s)`, likewise; or `None`.
    """

    logits: torch.Tensor
    predicted: Rewards | None = None
    prm_rewards: torch.Tensor | None = None

    @property
    def rewards(self) -> torch.Tensor | None:
        """float32 [nodes, vocabulary]: all of `M(s)`, or `None`.

        A row of infinity is that of a node within a thought which nobody judges. Where a few tokens will do,
        `predicted.of` costs less.
        """
        return None if self.predicted is None else self.predicted.whole()


@dataclass(frozen=True, slots=True)
class Answer:
    """How a search ended.

    Attributes:
        tokens: The response, the end-of-turn token included where there is one.
        finish_reason: `"stop"`, `"length"`, `"refusal"` or `"budget"`.
        reward: Predicted reward of the whole response; `None` where no reward model was asked.
        min_reward: The lowest predicted reward of any of its tokens.
        unseen_fallbacks: How often the mask emptied a nucleus (section 4.3).
        node: The handle of the response, so that the next turn can share it.
        budget_exhausted: Whether a limit of the budget ended the search.
        width: The most beams that were scored at once.
        complete: Whether the response follows the grammar to its end; `True` without a grammar.
        risk: How unsafe the response's tokens were likely to be, the last ones most of all, in [0, 1]; `None` where no
            reward model was asked for every token.
        highest_risk: The same where it was highest.
        steps_back: How often the search left unsafe beams for roads that it had not taken.
        reopened: How many of those it took.
        verified: How many texts a process reward model has looked at before they were final.
        overruled: How many of those it did not let stand.
        refusal_at: How many of the tokens come before a refusal in the model's own words; `None` where there is none.
        narrowed: Steps before which it gave up beams, as the cache had no room for them.
        narrowest_width: The fewest beams that it was left with by that; `None` where it never was.
    """

    tokens: tuple[int, ...]
    finish_reason: FinishReason
    reward: float | None = None
    min_reward: float | None = None
    unseen_fallbacks: int = 0
    node: Node | None = None
    budget_exhausted: bool = False
    width: int = 1
    complete: bool = True
    risk: float | None = None
    highest_risk: float | None = None
    steps_back: int = 0
    reopened: int = 0
    verified: int = 0
    overruled: int = 0
    refusal_at: int | None = None
    narrowed: int = 0
    narrowest_width: int | None = None


Search: TypeAlias = Generator[Expand, Scores, Answer]


def _never(tokens: Sequence[int]) -> bool:
    return False


class Sentences(Protocol):
    """Where the sentences of responses, given as tokens, end."""

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the latest token has ended a sentence."""

    def says(self, tokens: Sequence[int], since: int) -> bool:
        """Whether what follows the first `since` tokens says anything."""


@dataclass(frozen=True, slots=True)
class SearchInputs:
    """What a search knows besides the scores.

    Attributes:
        settings: The user's settings, `max_tokens`, `safety_threshold` and `mask` filled in.
        end_tokens: Tokens that end a turn.
        seen: bool [vocabulary]: tokens that the reward model was trained on; `None` for all, or without a mask.
        stops: Whether a response, given as tokens, has just completed a stop string.
        budget: What may still be spent.
        repetition_penalty: As in transformers; 1.0 is none.
        prompt: The prompt's ids, which the repetition penalty also looks at.
        trace: Where the live beams are recorded after every step, if wanted.
        recorder: What notes the whole search, if wanted.
        constraint: The state of the empty response under the grammar that the answer has to follow, if any.
        marks: Control tokens that only mark thoughts: neither the mask nor the reward model decides over them.
        refusing: What a refusal in the model's own words begins with, at the beginning of a response and behind other
            words; `None` where refusals are not the model's own.
        sentences: Where they end, for a search that verifies.
        reward_error: Points of reward by which the reward model's predictions are usually wrong.
    """

    settings: SearchSettings
    end_tokens: tuple[int, ...] = ()
    seen: torch.Tensor | None = None
    stops: Callable[[Sequence[int]], bool] = _never
    budget: BudgetMeter = field(default_factory=BudgetMeter)
    repetition_penalty: float = 1.0
    prompt: tuple[int, ...] = ()
    trace: list[list[list[int]]] | None = None
    recorder: Recorder | None = None
    constraint: Constraint | None = None
    marks: tuple[int, ...] = ()
    refusing: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    sentences: Sentences | None = None
    reward_error: float = 0.0

    @property
    def max_tokens(self) -> int:
        """The longest response."""
        assert self.settings.max_tokens is not None
        return self.settings.max_tokens

    def record(self, beams: Sequence[Sequence[int]], instead: bool = False) -> None:
        """Note the live beams of a step, if wanted `instead` of those that were noted last."""
        if self.trace is not None:
            if instead:
                self.trace.pop()
            self.trace.append([list(tokens) for tokens in beams])
