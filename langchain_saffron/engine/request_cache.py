"""One request's view of one model: where its nodes lie in the model's forest."""

from collections.abc import Sequence

import numpy as np

from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import ROOT, Expand, Node


class RequestCache:
    """A prompt and the live part of a search tree, in one model's cache.

    Attributes:
        decoder: The model.
        cached: Prompt tokens whose keys and values were there already.
        frontier: Slots that the search wants scored.
    """

    def __init__(self, decoder: TrieDecoder, prompt: Sequence[int], salt: str) -> None:
        """Insert the prompt.

        Raises:
            CacheFullError: The prompt does not fit.
        """
        self.decoder = decoder
        forest = decoder.forest
        self._prompt = forest.insert(prompt, salt=salt)
        filled = forest.filled[np.array(self._prompt)]
        # the last token is always computed again: its logits are needed, and only K and V are stored
        self.cached = min(int(filled.sum()), len(prompt) - 1)
        self._slots: dict[Node, int] = {ROOT: self._prompt[-1]}
        self.frontier: list[int] = []

    @property
    def prompt_length(self) -> int:
        """Tokens in the prompt."""
        return len(self._prompt)

    @property
    def prompt_end(self) -> int:
        """The slot of the prompt's last token."""
        return self._prompt[-1]

    def missing_prompt(self) -> list[int]:
        """Prompt slots that are still to be computed, in order, without the last one."""
        body = np.array(self._prompt[:-1], dtype=np.int64)
        missing: list[int] = body[~self.decoder.forest.filled[body]].tolist()
        return missing

    def prompt_cost(self) -> float:
        """TFLOP of what the cache lacks of the prompt, its last token's score included."""
        return self.decoder.cost([*self.missing_prompt(), self.prompt_end], 1)

    def expand(self, expand: Expand) -> None:
        """Make `expand.nodes` the frontier, keep `expand.retain`, and forget every other node.

        Raises:
            CacheFullError: No slot is left.
        """
        forest = self.decoder.forest
        kept = {ROOT: self._slots[ROOT]}
        for node in expand.nodes:
            slot = self._slots.get(node)
            if slot is None:
                assert node.parent is not None
                slot = forest.insert([node.token], parent=self._slots[node.parent])[-1]
                self._slots[node] = slot
            kept[node] = slot
        kept.update((node, self._slots[node]) for node in expand.retain if node in self._slots)
        for node, slot in self._slots.items():
            if node not in kept:
                forest.release(slot)
        self._slots = kept
        self.frontier = [kept[node] for node in expand.nodes]

    def wipe(self) -> None:
        """Zero and forget what this request computed, after a forward that gave NaN."""
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
        tip = self._slots[node if node is not None else ROOT]
        slots, self._slots, self.frontier = list(self._slots.values()), {}, []
        try:
            if forest.filled[tip]:
                forest.keep(tip)
        finally:
            for slot in slots:
                forest.release(slot)
