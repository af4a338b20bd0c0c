"""A grammar's state behind one response, by llguidance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar.answer_closing import AnswerCloser
from langchain_saffron.grammar.leaf_closing import character_end
from langchain_saffron.search.constraint import Constraint

_FAR = float("inf")
# how llguidance says that no token continues a response
DEAD_END = "NoExtensionBias"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What matchers know of a model's tokens.

    Attributes:
        vocabulary: Width of the masks. Number `vocabulary` is the end token that llguidance knows.
        end_tokens: Tokens that are allowed where that one is.
        tokenizer: llguidance's.
        closer: Finds the shortest ends of answers; `None` where nothing does.
    """

    vocabulary: int
    end_tokens: list[int]
    tokenizer: Any
    closer: AnswerCloser | None = None


class GrammarMatcher(Constraint):
    """What may follow a response, as llguidance has it.

    A copy of llguidance's own state takes the longer the longer the response is, so only beams that branch are given
    one: the last that goes on from a response takes over the state of that, which could be made again.
    """

    __slots__ = ("_accepting", "_distance", "_done", "_end", "_matcher", "_parent", "_token", "_tokens", "_ways")

    def __init__(
        self, tokens: Tokens, matcher: Any, parent: "GrammarMatcher | None" = None, token: int = -1, done: bool = False
    ) -> None:
        """Take a state.

        Args:
            tokens: The model's.
            matcher: llguidance's, which belongs to this object from now on; `None` makes it when it is needed.
            parent: The response without its newest token.
            token: That token.
            done: Whether nothing may follow.
        """
        self._tokens = tokens
        self._matcher = matcher
        self._parent = parent
        self._token = token
        self._accepting: bool | None = True if done else None
        self._done = done
        # the end is no farther than this, as far as is known
        self._distance: float = 0 if done else _FAR
        self._end: tuple[int, ...] | None = () if done else None
        # ends that are still to be tried, once they have been looked for
        self._ways: list[list[int]] | None = None

    def copy(self) -> "GrammarMatcher":
        """The same state, for another thread."""
        made = GrammarMatcher(self._tokens, self._own().deep_copy(), done=self._done)
        made._distance, made._end = self._distance, self._end
        return made

    def advance(self, token: int) -> "GrammarMatcher":
        """The state behind the response followed by `token`.

        Raises:
            GrammarError: The grammar does not allow it, or became too complex.
        """
        matcher = self._own()
        if not matcher.validate_tokens([token]):
            error = readable(matcher) if matcher.is_error() else f"token {token} is not allowed here"
            raise GrammarError(f"the answer cannot go on by its grammar: {error}")
        _consume(matcher, token)
        child = GrammarMatcher(self._tokens, None, self, token, matcher.is_stopped())
        child._accepting = matcher.is_accepting()
        closer = self._tokens.closer
        if closer is not None and not child._done and self._distance < _FAR:
            child._distance = self._distance + closer.rise(token)
            if self._end is not None and self._end[:1] == (token,):
                child._end = self._end[1:]
                child._distance = len(child._end)
        if not matcher.rollback(1):
            raise GrammarError(f"the grammar's state is lost: {readable(matcher)}")
        return child

    def allowed(self, states: Sequence[Constraint]) -> torch.Tensor:
        """What may follow each state; see `Constraint`."""
        matchers = _matchers(cast(Sequence[GrammarMatcher], states))
        vocabulary = self._tokens.vocabulary
        bits = np.zeros((len(states), vocabulary // 32 + 1), dtype=np.uint32)
        address, stride = bits.ctypes.data, bits.strides[0]
        dead = []
        for row, matcher in enumerate(matchers):
            matcher.unsafe_compute_mask_ptr(address + row * stride, stride)
            if matcher.is_error():
                if readable(matcher) != DEAD_END:
                    raise GrammarError(f"the answer cannot go on by its grammar: {readable(matcher)}")
                dead.append(row)
        mask = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little").view(np.bool_)
        mask[dead] = False
        mask[:, self._tokens.end_tokens] = mask[:, vocabulary, None]
        if len(dead) == len(states):
            raise GrammarError("no token of this model's vocabulary goes on with an answer of this grammar")
        return torch.from_numpy(mask[:, :vocabulary])

    @property
    def accepting(self) -> bool:
        """Whether the response is a whole one."""
        if self._accepting is None:
            self._accepting = bool(self._own().is_accepting())
        return self._accepting

    @property
    def done(self) -> bool:
        """Whether it is, and nothing may follow."""
        return self._done

    @property
    def blank(self) -> bool:
        """Whether nothing has been written but white space and what a call may begin with, as far as is known."""
        closer = self._tokens.closer
        if self._parent is None or closer is None:
            return self._parent is None
        text = self._text().strip()
        return not text or closer.begins_call(text)

    @property
    def torn(self) -> bool:
        """Whether what has been written ends within a character, as far as is known."""
        return self._tokens.closer is not None and bool(character_end(self._text()))

    def fits(self, left: int) -> bool:
        """Whether a whole answer can be reached in `left` more tokens, as far as is known."""
        if self._distance <= left:
            return True
        end = self.shortest()
        return end is None or len(end) <= left

    def beyond(self, left: int) -> bool:
        """Whether none of the ends that are likely to be the shortest is within `left` tokens; none is tried."""
        if self._distance <= left or self._parent is None:
            return False
        if self._end is not None:
            return len(self._end) > left
        return all(len(way) > left for way in self._likely_ends())

    def shortest(self) -> tuple[int, ...] | None:
        """The fewest tokens known to make the response whole; `None` where none are known to."""
        if self._end is None and self._tokens.closer is not None and self._distance > -_FAR:
            for end in self._likely_ends():
                if self._leads_to_an_end(end):
                    self._end = tuple(end)
                    self._distance = len(end)
                    break
            if self._end is None and self._parent is None:
                # what is unknown of the empty response will not be known of any other
                self._distance = -_FAR
        return self._end

    def _likely_ends(self) -> list[list[int]]:
        closer = self._tokens.closer
        if self._ways is None:
            self._ways = [] if closer is None else closer.ends(self._text())
        return self._ways

    def _leads_to_an_end(self, tokens: Sequence[int]) -> bool:
        if not tokens:
            return self.accepting
        matcher = self._own().deep_copy()
        return bool(matcher.try_consume_tokens(list(tokens)) == len(tokens) and matcher.is_accepting())

    def _text(self) -> bytes:
        """What has been written, control tokens by their names."""
        closer = self._tokens.closer
        assert closer is not None
        tokens, state = [], self
        while state._parent is not None:
            tokens.append(state._token)
            state = state._parent
        return b"".join(closer.written[token] for token in reversed(tokens))

    def accepts(self, text: str) -> bool:
        """Whether `text`, in whatever tokens, leads from here to a whole answer."""
        matcher = self._own().deep_copy()
        tokens = self._tokens.tokenizer.tokenize_str(text)
        written = self._tokens.tokenizer.decode_bytes(tokens) == text.encode()
        return bool(written and matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())

    def _own(self) -> Any:
        """Llguidance's state, made again if another response has taken it over."""
        if self._matcher is None:
            path = [self._token]
            source = self._parent
            while source is not None and source._matcher is None:
                path.append(source._token)
                source = source._parent
            assert source is not None, "the empty response keeps its state"
            self._matcher = source._matcher.deep_copy()
            for token in reversed(path):
                _consume(self._matcher, token)
        return self._matcher


def _matchers(states: Sequence[GrammarMatcher]) -> list[Any]:
    """Llguidance's state of each; the last that goes on from a response takes over the state of that."""
    heirs = {id(state._parent): state for state in states if state._matcher is None}
    for state in states:
        heirs.pop(id(state), None)
    last = {id(state) for state in heirs.values()}
    for state in states:
        if id(state) not in last:
            state._own()
    for state in heirs.values():
        parent = state._parent
        # the empty response keeps its own, from which all others can be made again
        if parent is not None and parent._parent is not None and parent._matcher is not None:
            state._matcher, parent._matcher = parent._matcher, None
            _consume(state._matcher, state._token)
    return [state._own() for state in states]


def _consume(matcher: Any, token: int) -> None:
    if not matcher.consume_token(token):
        raise GrammarError(f"the answer cannot go on by its grammar: {readable(matcher)}")


def readable(matcher: Any) -> str:
    """Why a matcher of llguidance is in error, without its own insides."""
    error: str = matcher.get_error() or matcher.stop_reason()
    return error.split("\n<")[0].removeprefix("Parser Error: ").strip()
