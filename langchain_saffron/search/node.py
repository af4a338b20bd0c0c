"""The handles by which a search speaks of its prefixes."""

from dataclasses import dataclass


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """A handle of one prefix: its newest token below its parent. Compared by identity.

    Attributes:
        parent: The prefix without its newest token; `None` for the root.
        token: The newest token id; -1 at the root.
        length: Response tokens in the prefix.
    """

    parent: "Node | None"
    token: int
    length: int

    def child(self, token: int) -> "Node":
        """A new handle for this prefix followed by `token`."""
        return Node(self, token, self.length + 1)


ROOT = Node(None, -1, 0)
