"""The forest of token tries: which token sits in which slot, below which parent.

A node *is* its slot: the index under which its keys and values lie in the pool. Beams share a prefix
because they share nodes; requests share a system prompt, and the next chat turn its history, for the
same reason (SAFFRON paper, section 4.4 and Proposition 2).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from langchain_saffron.cache.free_slots import FreeSlots
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
        evictions: How many kept prompts were dropped because their slots were needed.
    """

    def __init__(self, capacity: int) -> None:
        if not isinstance(capacity, int) or capacity < 1:
            raise SettingsError(f"max_cache_tokens: a KV cache needs at least one slot, not {capacity!r}")
        self.capacity = capacity
        self.evictions = 0
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
        # from where on slots are taken for what grows below a node: the end of its prompt
        self._home = [0] * self.capacity
        self._slots = FreeSlots(self.capacity)
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._paths: dict[int, np.ndarray] = {}

    @property
    def used(self) -> int:
        """Nodes alive now."""
        return self.capacity - self._slots.count

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
        return self._match(tokens, NO_PARENT, salt)

    def insert(
        self,
        tokens: Sequence[int],
        parent: int = NO_PARENT,
        salt: str = "",
        room: int = 0,
        home: int | None = None,
    ) -> list[int]:
        """Add `tokens` below `parent`, sharing what exists, and take a reference on the last one.

        A prompt, which has no `parent`, takes a run of slots behind what it shares, or the first one that holds it.
        What grows below takes the lowest free slots behind the prompt: it is read together with it.

        Args:
            tokens: What to add.
            parent: The node above the first one; -1 for a prompt.
            salt: Prompts share with those of the same salt.
            room: How many slots a prompt would like to have free behind it, for what will grow there.
            home: For what grows below the end of a prompt: what `home` said of it when the prompt was inserted, so
                that each of several requests with one prompt has its own room. `None` for the latest one's.

        Returns:
            The slot of every token, in order.

        Raises:
            CacheFullError: No slot is left, not even by dropping kept prompts. Nothing was added.
        """
        nodes = self._match(tokens, parent, salt)
        tip = nodes[-1] if nodes else parent
        # what it grows from must not be evicted to make room for it
        if tip != NO_PARENT:
            self.acquire(tip)
        if len(nodes) == len(tokens):
            if room and nodes:
                self._home[tip] = self._slots.find_room(self._home[tip], room, self._grows(nodes))
            return nodes
        try:
            rest = tokens[len(nodes) :]
            self._make_room(len(rest))
            if parent == NO_PARENT:
                slots = self._take_run(len(rest), nodes, room)
                home = slots[-1] + 1
            else:
                home = self._home[tip] if home is None else home
                slots = [self._slots.take(home) for _ in rest]
            self._grow(rest, slots, tip, home, salt)
            try:
                self.acquire(slots[-1])
            except BaseException:
                self._drop_unused(slots[-1])
                raise
        finally:
            if tip != NO_PARENT:
                self.release(tip)
        return nodes + slots

    def home(self, node: int) -> int:
        """From where on slots are taken for what will grow below a node."""
        return self._home[node]

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

    def _match(self, tokens: Sequence[int], parent: int, salt: str) -> list[int]:
        """The nodes of the longest prefix of `tokens` below `parent`."""
        nodes: list[int] = []
        below = self._roots.get(salt) if parent == NO_PARENT else self._children.get(parent)
        for token in tokens:
            if below is None or (node := below.get(token)) is None:
                break
            nodes.append(node)
            below = self._children.get(node)
        return nodes

    def _make_room(self, count: int) -> None:
        """Drop kept prompts until so many slots are free."""
        if count > self.available:
            raise CacheFullError(
                f"all {self.capacity} slots of the KV cache are in use: raise max_cache_tokens, or lower width, "
                "max_tokens or what keeps a search from becoming narrower: its min_width or width_floor, or a rule's "
                "at_least"
            )
        while self._slots.count < count:
            self._evict()
            self.evictions += 1

    def _take_run(self, count: int, shared: list[int], room: int) -> list[int]:
        """Slots for the rest of a prompt that shares some nodes."""
        home = self._home[shared[-1]] if shared else 0
        return self._slots.take_run(count, home, room, self._grows(shared)).tolist()

    def _grows(self, shared: list[int]) -> Callable[[int], bool]:
        """Whether others than a prompt, which holds what it shares, work with what lies in a slot."""
        mine = set(shared)
        return lambda slot: self._pins[slot] > (slot in mine)

    def _grow(self, tokens: Sequence[int], slots: list[int], tip: int, home: int, salt: str) -> None:
        """Put tokens into `slots`, one below the other, the first below `tip`."""
        above, depth = tip, 0
        if tip == NO_PARENT:
            below = self._roots.setdefault(salt, {})
            self._salt_of_root[slots[0]] = salt
        else:
            below, depth = self._children.setdefault(tip, {}), int(self.depth[tip]) + 1
        last = slots[-1]
        for slot, token in zip(slots, tokens, strict=True):
            below[token] = slot
            self._token[slot], self._parent[slot], self._home[slot], self.depth[slot] = token, above, home, depth
            above, depth = slot, depth + 1
            if slot != last:
                below = self._children[slot] = {}

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
        self._slots.give_back(node)
        return parent

    def _evict(self) -> None:
        node, _ = self._kept.popitem(last=False)
        self._references[node] -= 1
        self._drop_unused(node)
