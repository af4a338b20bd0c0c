"""Live and finished beams: their scores, the pool, and what of them is final."""

import math
from dataclasses import dataclass

from langchain_saffron.search.adaptive_width import smoothed_risk
from langchain_saffron.search.constraint import Constraint
from langchain_saffron.search.node import Node
from langchain_saffron.search.selection import Candidate
from langchain_saffron.settings import SearchSettings


@dataclass(frozen=True, slots=True)
class Beam:
    """A response, live or finished.

    Attributes:
        node: Its handle.
        tokens: Its token ids.
        logprob: Cumulative log-probability under the policy (over the temperature, if any).
        reward: Predicted reward of the whole; `None` for the empty response.
        min_reward: The lowest predicted reward of any token.
        score: What live beams are ranked by.
        finished: Whether it has ended its turn or completed a stop string.
        state: Where it stands in the grammar, if there is one; an end token does not change it.
        risk: How unsafe its tokens were likely to be when they were chosen, the newest ones most of all, in [0, 1];
            `None` for the empty response.
        looked: How many of its tokens a process reward model has read and let stand.
        rewards: Predicted rewards of the response up to each of the tokens that this search has added.
    """

    node: Node
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    reward: float | None = None
    min_reward: float = math.inf
    score: float = 0.0
    finished: bool = False
    state: Constraint | None = None
    risk: float | None = None
    looked: int = 0
    rewards: tuple[float, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether it follows the grammar to its end."""
        return self.state is None or self.state.accepting

    def grow(self, candidate: Candidate, finished: bool, state: Constraint | None = None) -> "Beam":
        """This beam followed by a candidate token."""
        return Beam(
            self.node.child(candidate.token),
            (*self.tokens, candidate.token),
            self.logprob + candidate.logprob,
            candidate.reward,
            min(self.min_reward, candidate.reward),
            candidate.score,
            finished,
            state,
            smoothed_risk(self.risk, candidate.risk),
            self.looked,
            (*self.rewards, candidate.reward),
        )

    def reward_at(self, length: int) -> float | None:
        """Predicted reward of its first `length` tokens, where this search has added the last of them."""
        place = length - 1 - (len(self.tokens) - len(self.rewards))
        return self.rewards[place] if 0 <= place < len(self.rewards) else None


class Scoring:
    """Scores of finished beams, and what a live one can still reach.

    Attributes:
        threshold: Reward from which more safety no longer counts.
    """

    def __init__(self, settings: SearchSettings) -> None:
        """Read the weights from settings whose `safety_threshold` is filled in."""
        assert settings.safety_threshold is not None
        self._paper = settings.ranking == "paper"
        self.threshold = settings.safety_threshold
        self._weight = settings.safety_weight
        self._penalty = settings.length_penalty

    def as_finished(self, beam: Beam, doubt: float = 0.0) -> float:
        """`L / length^length_penalty + weight · min(R - doubt, threshold)`; the reward alone for `"paper"`."""
        reward = -math.inf if beam.reward is None else beam.reward - doubt
        if self._paper:
            return reward
        return self._likelihood(beam) + self._weight * min(reward, self.threshold)

    def as_live(self, beam: Beam, doubt: float) -> float:
        """The score of a live beam if its reward is so much lower than predicted."""
        reward = -math.inf if beam.reward is None else beam.reward
        if self._paper:
            return reward - doubt
        return beam.score + self._weight * (min(reward - doubt, self.threshold) - min(reward, self.threshold))

    def as_last(self, beam: Beam) -> tuple[bool, float]:
        """The same where nothing can be added any more: a document that is not complete loses to any other."""
        return beam.finished or beam.complete, self.as_finished(beam)

    def reachable(self, beam: Beam) -> float:
        """What the beam would score now if its reward rose to the threshold.

        The length is taken as it is, as `early_stopping=False` does in transformers' beam search.
        """
        return math.inf if self._paper else self._likelihood(beam) + self._weight * self.threshold

    def _likelihood(self, beam: Beam) -> float:
        return beam.logprob / max(len(beam.tokens), 1) ** self._penalty


class Pool:
    """The best finished beams, best first, at most as many as the search is wide."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self.beams: list[Beam] = []

    def add(self, beams: list[Beam], size: int) -> None:
        """Take finished beams in and drop the worst beyond `size`.

        A live beam, which joins when no token is left, comes last if its document is not complete.
        """
        merged = [*self.beams, *beams]
        # a stable sort: the one that finished earlier wins a tie
        self.beams = sorted(merged, key=self._scoring.as_last, reverse=True)[:size]

    def settled(self, live: list[Beam], size: int) -> bool:
        """Whether it is full and no live beam can still beat its worst."""
        if len(self.beams) < size:
            return False
        if self._scoring.reachable(self.beams[0]) == math.inf:
            return True
        worst = self._scoring.as_finished(self.beams[-1])
        return not any(self._scoring.reachable(beam) > worst for beam in live[:1])

    def keep(self, prefix: tuple[int, ...]) -> None:
        """Drop what does not begin with `prefix`."""
        self.beams = [beam for beam in self.beams if beam.tokens[: len(prefix)] == prefix]


def shared_length(beams: list[Beam]) -> int:
    """How many tokens all `beams` begin with."""
    if not beams:
        return 0
    first, last = min(b.tokens for b in beams), max(b.tokens for b in beams)
    for i, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return i
    return min(len(first), len(last))
