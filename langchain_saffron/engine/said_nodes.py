"""A search tree without its thoughts, for reward models that are not to see them."""

from collections.abc import Iterable
from typing import Any

import torch

from langchain_saffron.engine.thought_reader import ThoughtReader
from langchain_saffron.search import ROOT, Expand, Node
from langchain_saffron.search.rewards import Rewards, RewardTable
from langchain_saffron.templates.thoughts import Thoughts


class SaidNodes:
    """The nodes of one search, and what each says, as nodes of another tree.

    Attributes:
        expand: What reward models are asked in place of the latest request of the search.
    """

    def __init__(self, tokenizer: Any, thoughts: Thoughts) -> None:
        """Nothing is known yet.

        Args:
            tokenizer: The policy's.
            thoughts: How thoughts are marked.
        """
        self.expand = Expand(())
        self._known: dict[Node, tuple[ThoughtReader, Node]] = {ROOT: (ThoughtReader(tokenizer, thoughts), ROOT)}
        self._children: dict[tuple[Node, int], Node] = {}
        # of the latest request: the row in the scores for each node, -1 within thoughts
        self._rows: list[int] = []
        self._prm_rows: list[int] = []

    def ask(self, expand: Expand) -> None:
        """Take the search's next request."""
        spoken = [self._look_up(node) for node in expand.nodes]
        nodes = dict.fromkeys(said for reader, said in spoken if not reader.thinking)
        prm_nodes = dict.fromkeys(self.said(node) for node in expand.prm_nodes)
        places, prm_places = _places(nodes), _places(prm_nodes)
        self._rows = [-1 if reader.thinking else places[said] for reader, said in spoken]
        self._prm_rows = [prm_places[self.said(node)] for node in expand.prm_nodes]
        retain = dict.fromkeys([*(said for _, said in spoken), *map(self.said, expand.retain)])
        spare = dict.fromkeys(map(self.said, expand.spare))
        self.expand = Expand(tuple(nodes), tuple(retain), expand.committed, tuple(prm_nodes), tuple(spare))
        kept = {ROOT, *expand.nodes, *expand.retain, *expand.spare, *expand.prm_nodes}
        self._known = {node: known for node, known in self._known.items() if node in kept}

    def said(self, node: Node) -> Node:
        """What a node says, without its thoughts."""
        return self._look_up(node)[1]

    def rewards(self, scored: Rewards | torch.Tensor, vocabulary: int) -> Rewards:
        """The rewards of the search's nodes, infinite within thoughts, of which nobody judges.

        Args:
            scored: Those of the asked nodes; an empty tensor where none was asked.
            vocabulary: How many tokens there are.
        """
        if isinstance(scored, torch.Tensor):
            return RewardTable.nothing(len(self._rows), vocabulary, scored.device)
        return scored.rows(self._rows)

    def rewards_of_all(self, scored: Rewards, vocabulary: int) -> Rewards:
        """The same of rewards [nodes] of a model that cannot but see thoughts, though it is to judge none."""
        return scored.rows([-1 if place < 0 else row for row, place in enumerate(self._rows)])

    def prm_rewards(self, scored: torch.Tensor) -> torch.Tensor:
        """The scores [prm_nodes] of the search's prefixes, from those of what they say."""
        return scored[self._prm_rows]

    def _look_up(self, node: Node) -> tuple[ThoughtReader, Node]:
        path = []
        while node not in self._known:
            path.append(node)
            assert node.parent is not None
            node = node.parent
        reader, said = self._known[node]
        for below in reversed(path):
            reader = reader.copy()
            reader.said = []
            reader.push(below.token)
            for token in reader.said:
                said = self._children.setdefault((said, token), said.child(token))
            self._known[below] = reader, said
        return reader, said


def _places(nodes: Iterable[Node]) -> dict[Node, int]:
    return {node: place for place, node in enumerate(nodes)}
