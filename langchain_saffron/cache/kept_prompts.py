"""Which prompts stay only until their slots are needed, and who goes first."""

from collections import OrderedDict
from itertools import count


class KeptPrompts:
    """The ends of kept prompts, the least recently used first."""

    def __init__(self) -> None:
        # what is kept moves to other slots without losing its turn: turns, not slots, are in order
        self._nodes: OrderedDict[int, int] = OrderedDict()
        self._turns: dict[int, int] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: int) -> bool:
        return node in self._turns

    def add(self, node: int) -> None:
        """Keep a node that is not kept yet, as the one used last."""
        self._turns[node] = turn = next(self._numbers)
        self._nodes[turn] = node

    def touch(self, node: int, last: bool = True) -> None:
        """Let a kept node be the one used last, or the first to go."""
        self._nodes.move_to_end(self._turns[node], last=last)

    def pop(self) -> int:
        """The first to go, which is kept no longer."""
        _, node = self._nodes.popitem(last=False)
        del self._turns[node]
        return node

    def move(self, targets: dict[int, int]) -> None:
        """Follow nodes to other slots.

        Args:
            targets: Where they lie now, by where they lay; those that are not kept included.
        """
        turns = [(target, self._turns.pop(node)) for node, target in targets.items() if node in self._turns]
        for target, turn in turns:
            self._turns[target] = turn
            self._nodes[turn] = target
