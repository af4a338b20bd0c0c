"""One request's view of one model: where its nodes lie in the model's forest."""

from collections.abc import Iterable, Sequence

import numpy as np

from langchain_saffron.errors import CacheFullError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import ROOT, Expand, Node

# slots that stay free behind a prompt, where there are enough, for its beams: most searches hold no more at a time
ROOM = 256


class RequestCache:
    """A prompt and the live part of a search tree, in one model's cache.

    Attributes:
        decoder: The model.
        cached: Prompt tokens whose keys and values were there already.
        frontier: Slots that the search wants scored.
        read: Rows computed for it besides its frontiers: its prompt, and what a pause lost.
    """

    def __init__(self, decoder: TrieDecoder, prompt: Sequence[int], salt: str) -> None:
        """Insert the prompt.

        Raises:
            CacheFullError: The prompt does not fit.
        """
        self.decoder = decoder
        self._tokens, self._salt = prompt, salt
        self._slots: dict[Node, int] = {}
        self._insert_prompt()
        filled = decoder.forest.filled[np.array(self._prompt)]
        # the last token is always computed again: its logits are needed, and only K and V are stored
        self.cached = min(int(filled.sum()), len(prompt) - 1)
        self.frontier: list[int] = []
        self.read = 0
        self._paused: tuple[Node, ...] = ()

    @property
    def held(self) -> int:
        """Nodes that it keeps hold of; what lies above them is held by that."""
        return len(self._slots)

    def needed(self, expand: Expand | None = None) -> int:
        """Slots that it takes from those available to go on after a pause, at most.

        Args:
            expand: What it is to go on with, alone; `None` for all that it had.
        """
        return self._slots_of(self._paused if expand is None else (*expand.nodes, *expand.prm_nodes))

    def asked_at_once(self, expand: Expand) -> int:
        """Slots without which `resume(expand)` is in vain after a pause: they are taken in one step."""
        retained = set(expand.retain).intersection(self._paused)
        return self._slots_of((*expand.nodes, *retained))

    def _slots_of(self, nodes: Iterable[Node]) -> int:
        forest, branches = self.decoder.forest, dict[Node, None]()
        for node in nodes:
            above: Node | None = node
            while above is not None and above is not ROOT and above not in branches:
                branches[above] = None
                above = above.parent
        return forest.missing(self._tokens, self._salt) + len(branches)

    def missing(self) -> list[int]:
        """Slots that have to be computed before the frontier, parents first: at first, the prompt's."""
        forest = self.decoder.forest
        filled = forest.filled
        found: dict[int, None] = dict.fromkeys(self._body[~filled[self._body]].tolist())
        end = self._prompt[-1]
        for slot in self.frontier:
            branch = []
            while slot != end and (slot := forest.parent(slot)) not in found and not filled[slot]:
                branch.append(slot)
            found.update(dict.fromkeys(reversed(branch)))
        return list(found)

    def expand(self, expand: Expand) -> None:
        """Make `expand.nodes` the frontier, keep what it says is to stay, and forget every other node.

        Where slots run out, `expand.spare` is forgotten too. May be tried again after an error: what is there already
        stays.

        Raises:
            CacheFullError: No slot is left.
        """
        try:
            self._hold_all(expand.nodes)
        except CacheFullError:
            # what is forgotten is computed again if it is asked for
            needed = {*self._above(expand.nodes), *expand.retain}
            if needed.issuperset(self._slots):
                raise
            self._forget_all_but(node for node in needed if node in self._slots)
            self._hold_all(expand.nodes)
        stay = (node for node in (*expand.retain, *expand.spare) if node in self._slots)
        self._forget_all_but((ROOT, *expand.nodes, *stay))
        self.frontier = [self._slots[node] for node in expand.nodes]

    def squeeze(self, expand: Expand) -> None:
        """Like `expand` or, after a pause, `resume`; but hold nothing besides the frontier.

        May be tried again after an error, with the first ones of the same nodes.

        Raises:
            CacheFullError: No slot is left.
        """
        if ROOT not in self._slots:
            self._insert_prompt()
        self._forget_all_but(self._above(expand.nodes))
        self._hold_all(expand.nodes)
        self._forget_all_but((ROOT, *expand.nodes))
        self.frontier = [self._slots[node] for node in expand.nodes]
        self._paused = ()

    def pause(self) -> None:
        """Give all slots back; what was computed stays until somebody needs its slots. `resume` goes on."""
        forest = self.decoder.forest
        slots, self._slots, self.frontier = self._slots, {}, []
        # after a resume that failed, some have no slot yet
        self._paused = tuple(dict.fromkeys((*self._paused, *slots)))
        try:
            for slot in slots.values():
                if forest.filled[slot]:
                    forest.keep(slot, briefly=True)
        finally:
            for slot in slots.values():
                forest.release(slot)

    def resume(self, expand: Expand) -> None:
        """Take the slots again that `pause` gave back, if it did, and `expand`. May be tried again after an error.

        Raises:
            CacheFullError: They do not fit.
        """
        if ROOT not in self._slots:
            self._insert_prompt()
        wanted = {*expand.nodes, *expand.prm_nodes, *expand.retain, *expand.spare}
        for node in self._paused:
            if node in wanted:
                self._hold(node)
        self.expand(expand)
        self._paused = ()

    def wipe(self) -> None:
        """Zero and forget what this request computed, after a forward that gave NaN."""
        if self._slots:
            self.decoder.forget([*self._prompt, *self._slots.values()])

    def close(self, keep: Node | None = None) -> None:
        """Give all nodes back; what was computed of the prompt stays until its slots are needed.

        Args:
            keep: The answer, whose path stays likewise, for the next turn.
        """
        forest = self.decoder.forest
        node = keep
        while node is not None and node not in self._slots:
            node = node.parent
        tip = self._slots.get(node if node is not None else ROOT)
        slots, self._slots, self.frontier = list(self._slots.values()), {}, []
        try:
            if tip is not None and forest.filled[tip]:
                forest.keep(tip)
        finally:
            for slot in slots:
                forest.release(slot)

    def _insert_prompt(self) -> None:
        # one mask over everybody's slots would grow by the room
        room = ROOM if self.decoder.reads_in_place else 0
        self._prompt = self.decoder.forest.insert(self._tokens, salt=self._salt, room=room)
        # all but its end, as every step looks at it
        self._body = np.array(self._prompt[:-1], dtype=np.int64)
        self._slots[ROOT] = self._prompt[-1]
        self._home = self.decoder.forest.home(self._prompt[-1])

    def _hold_all(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._hold(node)

    def _hold(self, node: Node) -> None:
        """Take a slot for a node that has none, below the longest part of it that has one."""
        if node in self._slots:
            return
        tokens: list[int] = []
        above = node
        while above not in self._slots:
            tokens.append(above.token)
            assert above.parent is not None
            above = above.parent
        home = self._home if above is ROOT else None
        self._slots[node] = self.decoder.forest.insert(tokens[::-1], parent=self._slots[above], home=home)[-1]

    def _above(self, nodes: Iterable[Node]) -> set[Node]:
        """What has slots and spares some nodes the most work: themselves, or what they grow from."""
        found = {ROOT}
        for node in nodes:
            while node not in self._slots:
                assert node.parent is not None
                node = node.parent
            found.add(node)
        return found

    def _forget_all_but(self, nodes: Iterable[Node]) -> None:
        kept = dict.fromkeys(nodes)
        for node in [node for node in self._slots if node not in kept]:
            self.decoder.forest.release(self._slots.pop(node))
