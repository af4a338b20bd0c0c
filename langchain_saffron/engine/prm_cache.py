"""A request's view of the process reward model: prefixes with the guard's question after each."""

from collections.abc import Iterable, Sequence

import torch

from langchain_saffron.engine.candidate_rewards import Spend
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.errors import CacheFullError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.decoder_scorer import weigh
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
        self._asked: list[int] = []

    def expand(self, expand: Expand) -> None:
        """Make `expand.prm_nodes` the frontier, keep what the policy scores or retains, forget every other response.

        Where slots run out, `expand.spare` is forgotten too.

        Raises:
            CacheFullError: No slot is left.
        """
        spare = [node for node in expand.spare if node in self._slots]
        needed = dict.fromkeys((ROOT, *expand.prm_nodes, *expand.nodes, *expand.retain))
        try:
            self._ask(expand, needed, spare)
        except CacheFullError:
            # what is forgotten is read again if it is asked for
            kept = self._above(needed)
            if kept.issuperset(self._slots):
                raise
            self._forget_all_but(kept)
            self._ask(expand, needed, ())

    def _ask(self, expand: Expand, needed: Iterable[Node], spare: Iterable[Node]) -> None:
        forest = self.decoder.forest
        self._drop_questions()
        self._hold_all(needed)
        self._forget_all_but((*needed, *spare))
        frontier, asked = [], list[int]()
        for node in expand.prm_nodes:
            question = forest.insert(self._suffix, parent=self._slots[node]) if self._suffix else []
            if question:
                self._questions.append(question[-1])
            rows = [*self._path(self._slots[node]), *question]
            frontier.append(rows[-1])
            asked += rows
        self.frontier, self._asked = frontier, asked

    def squeeze(self, expand: Expand) -> None:
        """Like `expand` or, after a pause, `resume`; but hold nothing besides the responses that are to be scored.

        Raises:
            CacheFullError: No slot is left.
        """
        if ROOT not in self._slots:
            self._insert_prompt()
        self._drop_questions()
        self._forget_all_but(self._above(expand.prm_nodes))
        self._ask(expand, (ROOT, *expand.prm_nodes), ())
        self._paused = ()

    def asked_at_once(self, expand: Expand) -> int:
        """Slots without which `resume(expand)` is in vain after a pause: they are taken in one step."""
        questions = len(self._suffix) * len(expand.prm_nodes)
        return self._slots_of((*expand.prm_nodes, *expand.nodes, *expand.retain)) + questions

    def missing(self) -> list[int]:
        """Slots that have to be computed before the frontier, parents first."""
        filled = self.decoder.forest.filled
        return [slot for slot in dict.fromkeys(self._asked) if not filled[slot]]

    def pause(self) -> None:
        """Give all slots back; what was computed stays until somebody needs its slots. `resume` goes on."""
        self._drop_questions()
        super().pause()

    def wipe(self) -> None:
        """Zero and forget what this request computed, after a forward that gave NaN."""
        if self._slots:
            self.decoder.forget(self._asked)
        super().wipe()

    def close(self, keep: Node | None = None) -> None:
        """Give all nodes back; the prompt stays until its slots are needed."""
        self._drop_questions()
        super().close()

    def _path(self, slot: int) -> list[int]:
        path: list[int] = self.decoder.forest.path(slot).tolist()
        return path

    def _drop_questions(self) -> None:
        self._asked = []
        while self._questions:
            self.decoder.forest.release(self._questions.pop())


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

    def prompt_cost(self, length: int) -> float:
        """TFLOP of reading a prompt of `length` tokens."""
        return self.decoder.prompt_cost(length + 1)

    def row_cost(self, length: int) -> float:
        """TFLOP of reading one more token below a prefix of `length` tokens."""
        return self.decoder.row_cost(length)

    def rewards(self, logits: torch.Tensor, spend: Spend | None = None) -> torch.Tensor:
        """`R` [rows] of outputs [rows, columns]; nothing is computed, or spent, later.

        Raises:
            NumericalError: One is infinite.
        """
        return weigh(logits[:, list(self._weights)], self._weights.values())
