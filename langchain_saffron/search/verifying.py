"""A last look: the process reward model reads what a search is about to show, and overrules the MRM."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from langchain_saffron.search.beams import Beam
from langchain_saffron.search.node import Node
from langchain_saffron.search.portions import rewards_in_portions
from langchain_saffron.search.protocol import Expand, Scores, SearchInputs

# texts in a row that fall before a search gives up: what is to be said goes on from something that is unsafe itself
MOST_IN_VAIN = 64

Look = Generator[Expand, Scores, "Looks"]


@dataclass(frozen=True, slots=True)
class Looks:
    """What came of a look.

    Attributes:
        standing: The beams that stand, in order.
        overruled: Those that the process reward model did not let stand, with its rewards.
    """

    standing: list[Beam]
    overruled: list[tuple[Beam, float]]


class Verifier:
    """Asks the process reward model (PRM) about texts where a sentence ends, and where they do.

    Both reward models speak of the same reward, so the same threshold holds for both: what the PRM finds less safe than
    `safety_threshold` falls.

    Attributes:
        verified: Texts that it has looked at.
        overruled: How many of those fell.
        in_vain: How many texts in a row fell; 0 as soon as one stands.
        is_short: Whether the budget did not cover all that should have been looked at.
    """

    def __init__(self, inputs: SearchInputs) -> None:
        """Nothing has been looked at yet.

        Args:
            inputs: Of the search, `safety_threshold` filled in and `sentences` given.
        """
        assert inputs.settings.safety_threshold is not None
        assert inputs.sentences is not None, "a search that verifies has to know where sentences end"
        self.verified = 0
        self.overruled = 0
        self.in_vain = 0
        self.is_short = False
        self._inputs = inputs
        self._sentences = inputs.sentences
        self._threshold = inputs.settings.safety_threshold

    @property
    def despairs(self) -> bool:
        """Whether so much fell and nothing stood that there is no use in going back once more."""
        return self.in_vain >= MOST_IN_VAIN

    def look(self, beams: Sequence[Beam], stay: Sequence[Node], spare: Sequence[Node] = (), last: bool = False) -> Look:
        """Look at those of some beams that have come to the end of a sentence, or to their own, all of them at once.

        What the budget does not cover is not looked at, and falls with what the PRM overrules.

        Args:
            beams: The best first.
            stay: What the search still needs in the cache.
            spare: What it may need.
            last: Whether nothing can be added any more, so that all of them are at their end.

        Returns:
            Those that stand, and those that are overruled.
        """
        asked = [self._said(beam) if self._is_due(beam, last) else None for beam in beams]
        nodes = tuple(dict.fromkeys(node for node in asked if node is not None))
        covered = self._inputs.budget.covers(nodes)
        self.is_short |= covered < len(nodes)
        nodes = nodes[:covered]
        rewards: dict[Node, float] = {}
        if nodes:
            asking = Expand((), retain=tuple(stay), spare=tuple(spare), prm_nodes=nodes)
            rewards = dict(zip(nodes, (yield from rewards_in_portions(asking)), strict=True))
        self.verified += len(nodes)
        looks = Looks([], [])
        for beam, node in zip(beams, asked, strict=True):
            if node is None:
                looks.standing.append(beam)
            elif node in rewards and rewards[node] >= self._threshold:
                looks.standing.append(replace(beam, looked=len(beam.tokens)))
            elif node in rewards:
                looks.overruled.append((beam, rewards[node]))
        fell = sum(not reward >= self._threshold for reward in rewards.values())
        self.overruled += fell
        self.in_vain = 0 if fell < len(nodes) else self.in_vain + fell
        if self._inputs.recorder is not None and nodes:
            self._inputs.recorder.look([beam for beam, _ in looks.overruled], len(nodes), fell)
        return looks

    def _is_due(self, beam: Beam, last: bool) -> bool:
        ends = last or beam.finished or self._sentences.ends(beam.tokens)
        return ends and len(beam.tokens) > beam.looked and self._sentences.says(beam.tokens, beam.looked)

    def _said(self, beam: Beam) -> Node:
        """The node of what a beam says: an end token is no part of it."""
        if beam.tokens[-1] in self._inputs.end_tokens:
            assert beam.node.parent is not None
            return beam.node.parent
        return beam.node
