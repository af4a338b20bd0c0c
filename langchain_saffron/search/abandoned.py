"""The roads that a search has not taken, and when it goes back to them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from langchain_saffron.search.beams import Beam, Scoring
from langchain_saffron.search.doubts import Doubts
from langchain_saffron.search.node import Node
from langchain_saffron.search.selection import Candidate

# points of reward by which a road has to be safer than where the search stands: less is within the reward model's error
MARGIN = 1.0
# how often a search goes back at most, so that it ends
MOST_STEPS_BACK = 32
# candidates that a step ranks for it, besides as many as the search is wide
BEYOND = 4
# roads that are remembered at most, beside as many as the search is wide
REMEMBERED = 96


@dataclass(frozen=True, slots=True, eq=False)
class Road:
    """A beam that has not been scored.

    Attributes:
        beam: What the search would go on from; without its state in the grammar where `before` is given.
        before: The beam above it, where that one's state says where this one stands; `None` for one that was live.
        doubt: Points of reward that it is less safe than predicted, by what is known of texts that begin like it.
        loss: Points of reward that it has to be expected to lose further on, by what became of such texts.
    """

    beam: Beam
    before: Beam | None
    doubt: float = 0.0
    loss: float = 0.0

    @property
    def reward(self) -> float | None:
        """The beam's predicted reward, less the doubt."""
        return None if self.beam.reward is None else self.beam.reward - self.doubt


class Abandoned:
    """The best roads not taken below what is final.

    Roads of one length are compared as beams are; roads of different lengths as if their answers ended there.

    Attributes:
        steps: How often the search went back.
        reopened: How many roads it took.
    """

    def __init__(self, scoring: Scoring, most: int) -> None:
        """There are none yet.

        Args:
            scoring: Tells which are better.
            most: The widest that the search may be.
        """
        self.steps = 0
        self.reopened = 0
        self._scoring = scoring
        self._size = REMEMBERED + most
        self._roads: list[Road] = []
        self._doubts = Doubts()
        # the least safe text that the search went back from, by each node that such a text went through
        self._fallen: dict[Node, Beam] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """What has to stay in the cache so that going back costs nothing."""
        return tuple(dict.fromkeys(parent for road in self._roads if (parent := road.beam.node.parent) is not None))

    def leave(self, parents: Sequence[Beam], candidates: Sequence[Candidate]) -> None:
        """Remember candidates of a step that were not taken."""
        pairs = [(parents[candidate.beam], candidate) for candidate in candidates if not candidate.ends]
        self._remember([Road(parent.grow(candidate, False), parent) for parent, candidate in pairs])

    def leave_live(self, beams: Sequence[Beam]) -> None:
        """Remember beams that were live until now."""
        self._remember([Road(beam, None) for beam in beams])

    def overrule(self, beam: Beam, reward: float) -> None:
        """Doubt what begins like a beam which is less safe than predicted.

        Args:
            beam: It, `looked` still what had stood before.
            reward: The process reward model's.
        """
        if beam.reward is not None and beam.reward > reward:
            self._doubts.add(beam.tokens, beam.looked, beam.reward - reward)
            self._doubt_anew()

    def keep(self, prefix: tuple[int, ...]) -> None:
        """Forget what does not continue `prefix`."""
        size = len(prefix)
        self._roads = [
            road for road in self._roads if len(road.beam.tokens) > size and road.beam.tokens[:size] == prefix
        ]

    def take(self, than: float, fallen: Sequence[Beam], width_at: Callable[[int], int]) -> list[Road]:
        """The roads to go back to, none of them remembered any more.

        All of them are as long as the best one, since beams are live together only where their scores compare. Which
        one that is hangs on what became of the texts that began like it: one that branched off just before they came
        to harm seldom leads elsewhere, however safe it seemed there, since so did they.

        Args:
            than: Reward of what is left; only a road that is safer by a margin is worth it.
            fallen: That itself, finished or not.
            width_at: The most to take at a length.

        Returns:
            Best first; none where none is worth it, or the search has gone back often enough.
        """
        if self.steps == MOST_STEPS_BACK or not self._safer(than):
            return []
        self._fall(fallen)
        worth = self._safer(than)
        length = max(worth, key=self._worth).beam.node.length
        same = [road for road in worth if road.beam.node.length == length]
        taken = sorted(same, key=self._worth_live, reverse=True)[: width_at(length)]
        self._roads = [road for road in self._roads if road not in taken]
        self.steps += 1
        self.reopened += len(taken)
        return taken

    def _safer(self, than: float) -> list[Road]:
        return [road for road in self._roads if road.reward is not None and road.reward > than + MARGIN]

    def _fall(self, beams: Sequence[Beam]) -> None:
        """Expect of what begins like some beams that it loses what they have lost."""
        for beam in beams:
            node = beam.node.parent
            while node is not None and node.parent is not None:
                before = self._fallen.get(node)
                if before is None or _reward(beam) < _reward(before):
                    self._fallen[node] = beam
                node = node.parent
        self._doubt_anew()

    def _loss(self, road: Road) -> float:
        """As much of a fallen text's loss from the road's length on as the road shares of that text."""
        node = road.beam.node.parent
        while node is not None and node not in self._fallen:
            node = node.parent
        if node is None:
            return 0.0
        text = self._fallen[node]
        predicted = text.reward_at(road.beam.node.length)
        if predicted is None:
            return 0.0
        return max(0.0, predicted - _reward(text)) * node.length / len(text.tokens)

    def _doubt_anew(self) -> None:
        roads, self._roads = self._roads, []
        self._remember(roads)

    def _remember(self, roads: list[Road]) -> None:
        if self._doubts:
            roads = [replace(road, doubt=self._doubts.of(road.beam.tokens)) for road in roads]
        if self._fallen:
            roads = [replace(road, loss=self._loss(road)) for road in roads]
        merged = [*self._roads, *roads]
        # a stable sort: of equals, the one that was left earlier comes first
        self._roads = sorted(merged, key=self._worth, reverse=True)[: self._size]

    def _worth(self, road: Road) -> float:
        return self._scoring.as_finished(road.beam, road.doubt + road.loss)

    def _worth_live(self, road: Road) -> float:
        return self._scoring.as_live(road.beam, road.doubt + road.loss)


def _reward(beam: Beam) -> float:
    return math.inf if beam.reward is None else beam.reward
