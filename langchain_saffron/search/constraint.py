"""What a search needs to know of a grammar that its answers have to follow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


class Constraint(ABC):
    """What may follow one response. It never changes: `advance` gives another one."""

    @abstractmethod
    def advance(self, token: int) -> "Constraint":
        """The same for this response followed by `token`, which must be allowed and no end token."""

    @abstractmethod
    def allowed(self, states: Sequence["Constraint"]) -> torch.Tensor:
        """What may follow several responses of the same grammar.

        Args:
            states: Their states.

        Returns:
            bool [states, vocabulary], on the CPU: end tokens are allowed exactly where the response is a whole one.

        Raises:
            GrammarError: The grammar became too complex, or no token of the model continues any of the responses.
        """

    @property
    @abstractmethod
    def accepting(self) -> bool:
        """Whether the response is a whole one."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether it is, and nothing may follow."""

    @abstractmethod
    def accepts(self, text: str) -> bool:
        """Whether the grammar has `text` as a whole answer; meant for the state of the empty response."""

    def fits(self, left: int) -> bool:
        """Whether a whole answer can be reached in `left` more tokens; `True` where that is not known."""
        return True

    def shortest(self) -> tuple[int, ...] | None:
        """The fewest tokens that make the response a whole one; `None` where that is not known."""
        return None


def permitted(states: Sequence[Constraint], end_tokens: Sequence[int], may_end: bool) -> torch.Tensor:
    """What may follow each response.

    Args:
        states: At least one.
        end_tokens: Tokens that end a turn.
        may_end: Whether the search allows ending here. Where the grammar allows nothing else, it is allowed anyway.

    Returns:
        bool [states, vocabulary], on the CPU.
    """
    mask = states[0].allowed(states)
    if not may_end and end_tokens:
        others = mask.index_fill(1, torch.tensor(end_tokens), False)
        mask = torch.where(others.any(dim=1, keepdim=True), others, mask)
    return mask


def constrain(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits of what a grammar allows; the rest is impossible.

    Args:
        logits: float32 [beams, vocabulary].
        mask: bool [beams, vocabulary].

    Returns:
        float32 [beams, vocabulary]. Where the policy holds all that is allowed for impossible, all of it is
        equally likely: the grammar wins.
    """
    constrained = logits.masked_fill(~mask, -torch.inf)
    impossible = (constrained == -torch.inf).all(dim=1, keepdim=True)
    return torch.where(impossible & mask, 0.0, constrained)
