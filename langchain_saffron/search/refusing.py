"""A refusal in the model's own words, where a search has nothing else left that may be said."""

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch

from langchain_saffron.search.constraint import Constraint
from langchain_saffron.search.protocol import Answer, Expand, Scores, Search
from langchain_saffron.settings import SearchSettings

# tokens that it may take
MOST_TOKENS = 48
# an attack leaves it little of the policy's mass
NUCLEUS = 0.95


class Opening(Constraint):
    """Words that come first; what follows is free."""

    def __init__(self, tokens: tuple[int, ...], vocabulary: int) -> None:
        """Begin.

        Args:
            tokens: The words.
            vocabulary: Width of the policy's scores.
        """
        self._tokens = tokens
        self._vocabulary = vocabulary

    def advance(self, token: int) -> "Opening":
        """The same behind `token`."""
        return Opening(self._tokens[1:], self._vocabulary)

    def allowed(self, states: Sequence[Constraint]) -> torch.Tensor:
        """The next word, or anything behind the last."""
        mask = torch.ones(len(states), self._vocabulary, dtype=torch.bool)
        for row, state in enumerate(states):
            assert isinstance(state, Opening)
            if state._tokens:
                mask[row] = False
                mask[row, state._tokens[0]] = True
        return mask

    @property
    def accepting(self) -> bool:
        """Whether all of the words have been said."""
        return not self._tokens

    @property
    def done(self) -> bool:
        """Never: the model ends what it says."""
        return False

    def accepts(self, text: str) -> bool:
        """Whether all of the words have been said."""
        return self.accepting


def held_back(search: Search) -> Generator[Expand, Scores, Answer]:
    """A search of which nothing is final before its end."""
    try:
        expand = next(search)
        while True:
            expand = search.send((yield replace(expand, committed=())))
    except StopIteration as end:
        answer: Answer = end.value
        return answer


def refusing_settings(settings: SearchSettings, said: int) -> SearchSettings:
    """How a refusal is searched for behind so many tokens: like the answer, but shorter and in a wider nucleus."""
    assert settings.max_tokens is not None
    changes = {
        "max_tokens": min(settings.max_tokens, said + MOST_TOKENS),
        "min_tokens": 0,
        "top_p": max(settings.top_p, NUCLEUS),
        "adaptive": False,
        "step_back": False,
        # it is looked at once, as a whole
        "verify": None,
        "commit_lag": None,
        # its first words are seldom safe yet: it is judged, and shown, as a whole
        "refusal_threshold": None,
    }
    return settings.model_copy(update=changes)
