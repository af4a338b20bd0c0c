"""What a search needs to know of a grammar that its answers have to follow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from langchain_saffron.search.branchless import or_never


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

    @property
    def blank(self) -> bool:
        """Whether nothing has been said yet, but for thoughts, white space and what a call may begin with.

        `False` where that is not known.
        """
        return False

    @property
    def torn(self) -> bool:
        """Whether the response ends within a character, as far as is known."""
        return False

    @abstractmethod
    def accepts(self, text: str) -> bool:
        """Whether the grammar has `text` as a whole answer; meant for the state of the empty response."""

    def fits(self, left: int) -> bool:
        """Whether a whole answer can be reached in `left` more tokens; `True` where that is not known."""
        return True

    def beyond(self, left: int) -> bool:
        """Whether it is clear without much ado that no way to a whole answer is known in `left` more tokens."""
        return False

    def must_close(self, left: int) -> bool:
        """Whether a whole answer takes all of `left` more tokens, as far as is known."""
        return not self.beyond(left) and not self.fits(left - 1) and self.fits(left)

    def shortest(self) -> tuple[int, ...] | None:
        """The fewest tokens that make the response a whole one; `None` where that is not known."""
        return None


def permitted(
    states: Sequence[Constraint], end_tokens: Sequence[int], may_end: bool, left: int | None = None
) -> torch.Tensor:
    """What may follow each response.

    Args:
        states: At least one.
        end_tokens: Tokens that end a turn.
        may_end: Whether the search allows ending here. Where the grammar allows nothing else, it is allowed anyway.
        left: How many tokens may still be written. Where a whole answer takes all of them, only its own next is
            allowed.

    Returns:
        bool [states, vocabulary], on the CPU.
    """
    mask = states[0].allowed(states)
    if not may_end and end_tokens:
        others = mask.index_fill(1, torch.tensor(end_tokens), False)
        mask = torch.where(others.any(dim=1, keepdim=True), others, mask)
    for row, state in enumerate(states if left is not None else ()):
        if left and state.must_close(left):
            mask[row] = only_closing(state, mask.shape[1], end_tokens)
    return mask


def only_closing(state: Constraint, vocabulary: int, end_tokens: Sequence[int]) -> torch.Tensor:
    """What may follow a response that is to be whole as soon as can be, or to stay whole.

    Args:
        state: One whose `shortest` is known.
        vocabulary: Width of the mask.
        end_tokens: Tokens that end a turn.

    Returns:
        bool [vocabulary], on the CPU.
    """
    end = state.shortest()
    assert end is not None, "nothing is known of the response's end"
    mask = torch.zeros(vocabulary, dtype=torch.bool)
    mask[[end[0]] if end else list(end_tokens)] = True
    return mask


def leaves_room(state: Constraint, child: Constraint, left: int, end_tokens: Sequence[int]) -> bool:
    """Whether a response may go on so: the document stays one that can be whole in time, if it was one before.

    What is whole already ends rather than begin what would stay half, such as another call. Saying nothing at all may
    be whole, but is no answer: an only call that does not fit is begun, and cut, so that whoever asked is told.

    Args:
        state: Of the response.
        child: Of the response and one more token.
        left: How many tokens may be written behind that one.
        end_tokens: Tokens that end a turn.
    """
    if child.done or state.beyond(left + 1) or child.fits(left):
        return True
    end = state.shortest()
    if end is None or len(end) > left + 1:
        return True
    return not end and (not end_tokens or (state.blank and not child.torn))


def constrain(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits of what a grammar allows; the rest is impossible.

    Args:
        logits: float32 [beams, vocabulary].
        mask: bool [beams, vocabulary].

    Returns:
        float32 [beams, vocabulary]. Where the policy holds all that is allowed for impossible, all of it is
        equally likely: the grammar wins.
    """
    constrained = or_never(logits, mask)
    if logits.device.type == "cpu" and bool((constrained.amax(dim=1) > -torch.inf).all()):
        return constrained
    impossible = (constrained == -torch.inf).all(dim=1, keepdim=True)
    return torch.where(impossible & mask, 0.0, constrained)
