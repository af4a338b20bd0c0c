"""The forest of token tries: which token sits in which slot, below which parent.

A node *is* its slot: the index under which its keys and values lie in the pool. Beams share a prefix
because they share nodes; requests share a system prompt, and the next chat turn its history, for the
same reason (SAFFRON paper, section 4.4 and Proposition 2).
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from langchain_saffron.errors import CacheFullError, SettingsError

NO_PARENT = -1


class TokenForest:
    """Tries of tokens, one a salt, over a bounded number of slots.

    A node lives as long as somebody holds a reference on it or it has a child. Prompts that were
    `keep`-ed stay until they are the least recently used and somebody needs their slots.

    Attributes:
        capacity: The most nodes that may live at once.
        filled: bool array [capacity]: whether the slot's keys and values have been computed.
        depth: int array [capacity]: tokens above the node, which is also its position id.
    """

    def __init__(self, capacity: int) -> None:
        if not isinstance(capacity, int) or capacity < 1:
            raise SettingsError(f"max_cache_tokens: a KV cache needs at least one slot, not {capacity!r}")
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget everything: references that others still hold mean nothing any more."""
        self.filled = np.zeros(self.capacity, dtype=bool)
        self.depth = np.zeros(self.capacity, dtype=np.int64)
        self._token = [0] * self.capacity
        self._parent = [NO_PARENT] * self.capacity
        self._references = [0] * self.capacity
        # references of those who work with a node, and children for which that holds: not of prompts that are kept
        self._pins = [0] * self.capacity
        self._pinned = 0
        self._children: dict[int, dict[int, int]] = {}
        self._roots: dict[str, dict[int, int]] = {}
        self._salt_of_root: dict[int, str] = {}
        self._free = list(range(self.capacity))
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._paths: dict[int, np.ndarray] = {}

    @property
    def used(self) -> int:
        """Nodes alive now."""
        return self.capacity - len(self._free)

    @property
    def available(self) -> int:
        """Nodes that could still be added, kept prompts making room for them."""
        return self.capacity - self._pinned

    @property
    def kept(self) -> int:
        """Prompts that stay only until their slots are needed."""
        return len(self._kept)

    def token(self, node: int) -> int:
        """The token id in `node`."""
        return self._token[node]

    def parent(self, node: int) -> int:
        """The slot above `node`, or -1 for the first token of a prompt."""
        return self._parent[node]

    def path(self, node: int) -> np.ndarray:
        """The slots from the first token down to `node` itself, int64 [depth + 1]."""
        tail: list[int] = []
        while node != NO_PARENT:
            if (head := self._paths.get(node)) is not None:
                return np.concatenate([head, np.array(tail[::-1], dtype=np.int64)])
            tail.append(node)
            node = self._parent[node]
        return np.array(tail[::-1], dtype=np.int64)

    def remember_leaves(self, nodes: np.ndarray) -> None:
        """Keep the paths of those `nodes` that end a branch, and no others, at hand: the next are one step longer."""
        inner = {self._parent[node] for node in nodes.tolist()}
        self._paths = {node: self.path(node) for node in nodes.tolist() if node not in inner}

    def remember_branch(self, tip: int) -> None:
        """Keep the path of every node down to `tip` at hand until the next forward: many branches will begin there."""
        path = self.path(tip)
        self._paths.update((node, path[: i + 1]) for i, node in enumerate(path.tolist()))

    def match(self, tokens: Sequence[int], salt: str = "") -> list[int]:
        """The nodes of the longest prefix of `tokens` that is there, whether filled or not."""
        nodes: list[int] = []
        below = self._roots.get(salt, {})
        for token in tokens:
            node = below.get(token)
            if node is None:
                break
            nodes.append(node)
            below = self._children.get(node, {})
        return nodes

    def insert(self, tokens: Sequence[int], parent: int = NO_PARENT, salt: str = "") -> list[int]:
        """Add `tokens` below `parent`, sharing what exists, and take a reference on the last one.

        Returns:
            The slot of every token, in order.

        Raises:
            CacheFullError: No slot is left, not even by dropping kept prompts. Nothing was added.
        """
        nodes: list[int] = []
        # the new tail must not be evicted while it grows: it is held by the reference on its tip
        held = parent
        if held != NO_PARENT:
            self.acquire(held)
        try:
            for token in tokens:
                node = self._below(held, salt).get(token)
                if node is None:
                    node = self._create(token, held, salt)
                try:
                    self.acquire(node)
                except BaseException:
                    self._drop_unused(node)
                    raise
                if held != NO_PARENT:
                    self.release(held)
                held = node
                nodes.append(node)
        except BaseException:
            if held != NO_PARENT:
                self.release(held)
            raise
        return nodes

    def missing(self, tokens: Sequence[int], salt: str = "") -> int:
        """How many nodes `insert` of a prompt takes from those `available`."""
        return len(tokens) - sum(self._pins[node] > 0 for node in self.match(tokens, salt))

    def acquire(self, node: int) -> None:
        """Hold `node`, and so everything above it."""
        self._references[node] += 1
        while node != NO_PARENT:
            self._pins[node] += 1
            if self._pins[node] > 1:
                break
            self._pinned += 1
            node = self._parent[node]

    def release(self, node: int) -> None:
        """Give one reference back; a node that nobody needs returns its slot at once."""
        if self._references[node] - (node in self._kept) < 1:
            raise ValueError(f"slot {node} is not held")
        self._references[node] -= 1
        above = node
        while above != NO_PARENT:
            self._pins[above] -= 1
            if self._pins[above]:
                break
            self._pinned -= 1
            above = self._parent[above]
        self._drop_unused(node)

    def keep(self, node: int, briefly: bool = False) -> None:
        """Let the path to `node` stay until it is the least recently used and slots are short.

        Args:
            node: The end of the path.
            briefly: Whether it is the first to go.
        """
        if node not in self._kept:
            self._references[node] += 1
            self._kept[node] = None
        elif briefly:
            return
        self._kept.move_to_end(node, last=not briefly)

    def drop_kept(self) -> None:
        """Forget all kept prompts."""
        while self._kept:
            self._evict()

    def live_nodes(self, leaves: Iterable[int]) -> int:
        """The number of distinct nodes on the paths to `leaves`."""
        seen: set[int] = set()
        for leaf in leaves:
            node = leaf
            while node != NO_PARENT and node not in seen:
                seen.add(node)
                node = self._parent[node]
        return len(seen)

    def _drop_unused(self, node: int) -> None:
        """Give the slots of `node` and of what is above it back, as far as nobody needs them."""
        while node != NO_PARENT and self._references[node] == 0 and not self._children.get(node):
            node = self._remove(node)

    def _below(self, parent: int, salt: str) -> dict[int, int]:
        return self._roots.get(salt, {}) if parent == NO_PARENT else self._children.get(parent, {})

    def _create(self, token: int, parent: int, salt: str) -> int:
        if not self.available:
            raise CacheFullError(
                f"all {self.capacity} slots of the KV cache are in use: raise max_cache_tokens, "
                "or use a smaller width, min_width or max_tokens"
            )
        while not self._free:
            self._evict()
        # the lowest slot first: what lives together stays close together
        node = heapq.heappop(self._free)
        self._token[node] = token
        self._parent[node] = parent
        self.filled[node] = False
        if parent == NO_PARENT:
            self.depth[node] = 0
            self._roots.setdefault(salt, {})[token] = node
            self._salt_of_root[node] = salt
        else:
            self.depth[node] = self.depth[parent] + 1
            self._children.setdefault(parent, {})[token] = node
        return node

    def _remove(self, node: int) -> int:
        parent = self._parent[node]
        self._children.pop(node, None)
        self._paths.pop(node, None)
        if parent == NO_PARENT:
            salt = self._salt_of_root.pop(node)
            roots = self._roots[salt]
            del roots[self._token[node]]
            if not roots:
                del self._roots[salt]
        else:
            del self._children[parent][self._token[node]]
        self.filled[node] = False
        heapq.heappush(self._free, node)
        return parent

    def _evict(self) -> None:
        node, _ = self._kept.popitem(last=False)
        self._references[node] -= 1
        self._drop_unused(node)
