"""A grammar that begins behind the thought."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar.thought_tokens import ThoughtTokens
from langchain_saffron.search.constraint import Constraint
from langchain_saffron.templates.thought_form import Place
from langchain_saffron.templates.thought_splitter import GAP


@dataclass(frozen=True, slots=True)
class ThoughtRules:
    """What all responses of a request have in common.

    Attributes:
        tokens: The markers in the model's tokens.
        root: The grammar of what is said, before any of it.
        lead: What has to come before that; empty for nothing.
        again: Whether thoughts may follow each other.
        calls: The grammar of what may stand in place of the lead and all behind it, before any of it.
    """

    tokens: ThoughtTokens
    root: Constraint
    lead: str
    again: bool
    calls: Constraint | None = None

    @property
    def ready(self) -> tuple[Constraint, ...]:
        """Where the answer may begin behind a thought, without a lead."""
        if not self.lead:
            return (self.root,)
        return (self.calls,) if self.calls else ()


class AfterThought(Constraint):
    """Any thought, if the answer has one, and behind it what a grammar allows.

    It may stand at several places at once: what is written may begin a thought as well as a document.
    """

    __slots__ = ("_gap", "_inner", "_lead", "_opening", "_rules", "_tail")

    def __init__(
        self,
        rules: ThoughtRules,
        tail: str | None = None,
        opening: str = "",
        lead: str = "",
        inner: tuple[Constraint, ...] = (),
        gap: int = 0,
    ) -> None:
        """Take a state.

        Args:
            rules: The request's.
            tail: Within a thought, what may be the beginning of its end; else `None`.
            opening: What of the opening marker is still to be written; empty where no thought may begin.
            lead: What has to be written before the document; empty where that has begun or nothing has to.
            inner: Where it stands in the grammar.
            gap: How many line breaks may still come before all that.
        """
        self._rules = rules
        self._tail = tail
        self._opening = opening
        self._lead = lead
        self._inner = inner
        self._gap = gap

    @classmethod
    def start(
        cls,
        tokens: ThoughtTokens,
        root: Constraint,
        place: Place,
        document: bool,
        again: bool,
        calls: Constraint | None = None,
    ) -> Constraint:
        """The empty response.

        Args:
            tokens: The markers in the model's tokens.
            root: The grammar's empty response.
            place: Where the prompt leaves off.
            document: Whether the grammar is that of a text, rather than of calls, which bring their own markers.
            again: Whether thoughts may follow each other.
            calls: The empty response of calls that may stand in place of a document that has a lead.
        """
        rules = ThoughtRules(tokens, root, tokens.lead if document and place != "said" else "", again, calls)
        if place == "inside":
            return cls(rules, tail="")
        if place == "before":
            return cls._ready(rules, gap=0, opening=True)
        return cls._ready(rules, gap=0, opening=False) if rules.lead else root

    @classmethod
    def _ready(cls, rules: ThoughtRules, gap: int, opening: bool) -> "AfterThought":
        return cls(rules, None, rules.tokens.opening if opening else "", rules.lead, rules.ready, gap)

    def advance(self, token: int) -> "AfterThought":
        """The state behind the response followed by `token`.

        Raises:
            GrammarError: Nothing allows it.
        """
        rules, text = self._rules, self._rules.tokens.written[token]
        if self._tail is not None:
            return self._think(self._tail + text) if text else self
        opening, lead, gap = "", "", 0
        inner = list(self._advanced(token))
        if text and self._opening:
            if text.startswith(self._opening):
                return self._think(text[len(self._opening) :])
            opening = self._opening.removeprefix(text) if self._opening.startswith(text) else ""
        if text and self._lead.startswith(text):
            lead = self._lead.removeprefix(text)
            inner += [] if lead else [rules.root]
        if text and not text.strip("\n") and len(text) <= self._gap:
            opening, lead, gap = self._opening, self._lead, self._gap - len(text)
            inner += rules.ready
        if not (inner or opening or lead):
            raise GrammarError(f"the answer cannot go on by its grammar: token {token} is not allowed here")
        return AfterThought(rules, None, opening, lead, tuple(inner), gap)

    def allowed(self, states: Sequence[Constraint]) -> torch.Tensor:
        """What may follow each state; see `Constraint`."""
        mine = cast(Sequence[AfterThought], states)
        inner = [one for state in mine for one in state._inner]
        rows = iter(self._inner_masks(inner, alone=all(state._only_inner for state in mine)))
        masks = []
        for state in mine:
            tokens = state._rules.tokens
            ways = [next(rows) for _ in state._inner]
            if state._tail is not None:
                ways.append(tokens.thinking(state._tail))
            if state._opening:
                ways.append(tokens.beginning(state._opening, beyond=True))
            if state._lead:
                ways.append(tokens.beginning(state._lead, beyond=False))
            if state._gap:
                ways.append(tokens.breaks(state._gap))
            masks.append(torch.stack(torch.broadcast_tensors(*ways)).any(dim=0))
        return torch.stack(masks)

    @property
    def accepting(self) -> bool:
        """Whether the response is a whole one."""
        return any(one.accepting for one in self._inner)

    @property
    def done(self) -> bool:
        """Whether it is, and nothing may follow."""
        return self._only_inner and all(one.done for one in self._inner)

    @property
    def blank(self) -> bool:
        """Whether nothing has been said yet, but for thoughts, white space and what a call may begin with."""
        return self._tail is not None or all(one.blank for one in self._inner)

    @property
    def torn(self) -> bool:
        """Whether the response ends within a character."""
        return any(one.torn for one in self._inner)

    def accepts(self, text: str) -> bool:
        """Whether the grammar has `text`, without thoughts, as a whole answer."""
        calls = self._rules.calls
        return self._rules.root.accepts(text) or (calls is not None and calls.accepts(text))

    def fits(self, left: int) -> bool:
        """Whether a whole answer can be reached in `left` more tokens, as far as is known."""
        if any(one.fits(left) for one in self._inner):
            return True
        end = self.shortest()
        return end is None or len(end) <= left

    def shortest(self) -> tuple[int, ...] | None:
        """The fewest tokens known to end the thought and make a document; `None` where none are known to."""
        tokens, rules = self._rules.tokens, self._rules
        ways = [one.shortest() for one in self._inner]
        if not ways or self._lead:
            if self._tail is not None:
                begin = tokens.closing[len(self._tail) :] + rules.lead
            else:
                # a thought has begun to begin, or the document has
                begin = self._lead or self._opening + tokens.closing + rules.lead
            before, end = tokens.spell(begin), rules.root.shortest()
            ways.append(None if before is None or end is None else before + end)
        return min((way for way in ways if way is not None), key=len, default=None)

    @property
    def _only_inner(self) -> bool:
        return self._tail is None and not (self._opening or self._lead or self._gap)

    def _think(self, text: str) -> "AfterThought":
        tail, behind = self._rules.tokens.behind(text)
        if behind is None:
            return AfterThought(self._rules, tail=tail)
        return self._ready(self._rules, GAP - len(behind), opening=self._rules.again)

    def _advanced(self, token: int) -> list[Constraint]:
        advanced = []
        for one in self._inner:
            try:
                advanced.append(one.advance(token))
            except GrammarError:
                if self._only_inner and len(self._inner) == 1:
                    raise
        return advanced

    @staticmethod
    def _inner_masks(states: Sequence[Constraint], alone: bool) -> Sequence[torch.Tensor]:
        if not states:
            return ()
        try:
            return list(states[0].allowed(states))
        except GrammarError:
            # there are other ways to go on than the grammar's
            if alone:
                raise
            return [torch.tensor(False)] * len(states)
