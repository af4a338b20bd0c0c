"""A request's view of the process reward model: prefixes with the guard's question after each."""

from collections.abc import Sequence

import torch

from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.search import ROOT, Expand, Node


class PrmRequestCache(RequestCache):
    """A prompt, the responses below it, and the guard's question after each one that is to be scored.

    The frontier are the ends of the questions. What responses have in common is computed once, also from one request of
    the search to the next.
    """

    def __init__(self, decoder: TrieDecoder, prompt: Sequence[int], salt: str, suffix: Sequence[int]) -> None:
        """Insert the prompt.

        Raises:
            CacheFullError: The prompt does not fit.
        """
        super().__init__(decoder, prompt, salt)
        self._suffix = list(suffix)
        self._questions: list[int] = []
        self._path_slots: list[int] = []

    def expand(self, expand: Expand) -> None:
        """Make `expand.prm_nodes` the frontier, keep what the policy scores or retains, forget every other response.

        Raises:
            CacheFullError: No slot is left.
        """
        forest = self.decoder.forest
        needed = dict.fromkeys((ROOT, *expand.prm_nodes, *expand.nodes, *expand.retain))
        for node in needed:
            # held from here on, whatever fails behind it
            if node not in self._slots:
                self._slots[node] = self._insert(node)
        fresh = {node: self._slots[node] for node in needed}
        for node in [node for node in self._slots if node not in fresh]:
            forest.release(self._slots.pop(node))
        self._drop_questions()
        self.frontier, self._path_slots = [], []
        for node in expand.prm_nodes:
            question = forest.insert(self._suffix, parent=fresh[node]) if self._suffix else []
            if question:
                self._questions.append(question[-1])
            rows = [*self._path(fresh[node]), *question]
            self.frontier.append(rows[-1])
            self._path_slots += rows

    def missing_prompt(self) -> list[int]:
        """Slots that have to be computed before the frontier, parents first."""
        filled = self.decoder.forest.filled
        return [slot for slot in dict.fromkeys(self._path_slots) if not filled[slot]]

    def wipe(self) -> None:
        """Zero and forget what this request computed, after a forward that gave NaN."""
        self.decoder.forget([*self._path_slots])
        super().wipe()

    def close(self, keep: Node | None = None) -> None:
        """Give all nodes back; the prompt stays until its slots are needed."""
        self._drop_questions()
        super().close()

    def _insert(self, node: Node) -> int:
        """A slot for a response that is not there yet, below the longest part of it that is."""
        tokens: list[int] = []
        while node not in self._slots:
            tokens.append(node.token)
            assert node.parent is not None
            node = node.parent
        return self.decoder.forest.insert(tokens[::-1], parent=self._slots[node])[-1]

    def _path(self, slot: int) -> list[int]:
        path: list[int] = self.decoder.forest.path(slot).tolist()
        return path

    def _drop_questions(self) -> None:
        for tip in self._questions:
            self.decoder.forest.release(tip)
        self._questions = []


class PrmScorer:
    """A process reward model as the scheduler asks it.

    Attributes:
        decoder: The model over its trie.
        suffix: The guard's question, as token ids.
    """

    def __init__(self, model: ProcessRewardModel) -> None:
        """Take the model apart; for a function there is `FunctionScorer`."""
        assert model.decoder is not None
        self.decoder = model.decoder
        self.suffix = model.suffix
        self._weights = model.weights

    def cache(self, prompt: Sequence[int], salt: str) -> PrmRequestCache:
        """A request's view of it."""
        return PrmRequestCache(self.decoder, prompt, salt, self.suffix)

    def call_cost(self, length: int) -> float:
        """TFLOP of one more token and the question, below a prefix of `length` tokens."""
        return sum(self.decoder.row_cost(length + i) for i in range(len(self.suffix) + 1))

    def rewards(self, logits: torch.Tensor) -> torch.Tensor:
        """`R` [rows] of outputs [rows, columns]."""
        columns = list(self._weights)
        signs = torch.tensor([self._weights[column] for column in columns], device=logits.device)
        return logits[:, columns].float() @ signs
