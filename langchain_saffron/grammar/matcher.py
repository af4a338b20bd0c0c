"""A grammar's state behind one response, by llguidance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from langchain_saffron.errors import GrammarError
from langchain_saffron.search.constraint import Constraint

# how llguidance says that no token continues a response
DEAD_END = "NoExtensionBias"


class GrammarMatcher(Constraint):
    """What may follow a response, as llguidance has it. Copies share what was computed of the grammar."""

    __slots__ = ("_end_tokens", "_matcher", "_tokenizer", "_vocabulary")

    def __init__(self, matcher: Any, vocabulary: int, end_tokens: Sequence[int], tokenizer: Any) -> None:
        """Take a matcher of llguidance.

        Args:
            matcher: It belongs to this object from now on. Its own end token is number `vocabulary`.
            vocabulary: Width of the masks.
            end_tokens: Tokens that are allowed where the matcher allows its own.
            tokenizer: llguidance's.
        """
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._end_tokens = list(end_tokens)
        self._tokenizer = tokenizer

    def copy(self) -> "GrammarMatcher":
        """The same state, for another thread."""
        return self._with(self._matcher.deep_copy())

    def advance(self, token: int) -> "GrammarMatcher":
        """The state behind the response followed by `token`.

        Raises:
            GrammarError: The grammar does not allow it, or became too complex.
        """
        # a copy takes microseconds, so no state has to be shared
        matcher = self._matcher.deep_copy()
        if not matcher.consume_token(token):
            raise GrammarError(f"the answer cannot go on by its grammar: {readable(matcher)}")
        return self._with(matcher)

    def allowed(self, states: Sequence[Constraint]) -> torch.Tensor:
        """What may follow each state; see `Constraint`."""
        words = self._vocabulary // 32 + 1
        bits = np.zeros((len(states), words), dtype=np.uint32)
        address, stride = bits.ctypes.data, bits.strides[0]
        dead = []
        for row, state in enumerate(states):
            assert isinstance(state, GrammarMatcher)
            matcher = state._matcher
            matcher.unsafe_compute_mask_ptr(address + row * stride, stride)
            if matcher.is_error():
                if readable(matcher) != DEAD_END:
                    raise GrammarError(f"the answer cannot go on by its grammar: {readable(matcher)}")
                dead.append(row)
        mask = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little").view(np.bool_)
        mask[dead] = False
        mask[:, self._end_tokens] = mask[:, self._vocabulary, None]
        if len(dead) == len(states):
            raise GrammarError("no token of this model's vocabulary goes on with an answer of this grammar")
        return torch.from_numpy(mask[:, : self._vocabulary])

    @property
    def accepting(self) -> bool:
        """Whether the response is a whole one."""
        accepting: bool = self._matcher.is_accepting()
        return accepting

    @property
    def done(self) -> bool:
        """Whether it is, and nothing may follow."""
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    def accepts(self, text: str) -> bool:
        """Whether `text`, in whatever tokens, leads from here to a whole answer."""
        matcher = self._matcher.deep_copy()
        tokens = self._tokenizer.tokenize_str(text)
        written = self._tokenizer.decode_bytes(tokens) == text.encode()
        return bool(written and matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())

    def _with(self, matcher: Any) -> "GrammarMatcher":
        return GrammarMatcher(matcher, self._vocabulary, self._end_tokens, self._tokenizer)


def readable(matcher: Any) -> str:
    """Why a matcher of llguidance is in error, without its own insides."""
    error: str = matcher.get_error() or matcher.stop_reason()
    return error.split("\n<")[0].removeprefix("Parser Error: ").strip()
