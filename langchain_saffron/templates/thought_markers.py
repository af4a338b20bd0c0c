"""The markers of thoughts in one tokenizer's tokens, and texts taken apart by them.

Where a marker is a control token, only that token is one: the same characters in other tokens, such as those that a
user has written and the model quotes, are text. So control tokens that markers consist of are written as signs that no
text can hold: lone surrogates.
"""

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from langchain_saffron.templates.safe_encoder import SafeEncoder
from langchain_saffron.templates.thought_form import Place, ThoughtForm

_FIRST_SIGN = 0xD800
_SIGN = re.compile("[\ud800-\udfff]")
# line breaks behind a thought that are not the answer's
GAP = 2

PieceKind = Literal["thought", "text", "opened", "closed", "framing"]
Piece = tuple[PieceKind, str]


@dataclass(frozen=True)
class ThoughtMarkers:
    """A form in the tokens of a tokenizer.

    Attributes:
        form: The form.
        opening: Its marker, control tokens as signs; likewise the others.
        closing: What ends a thought.
        lead: What comes before the text.
        framing: What is left out of texts wherever it stands.
        signs: The signs by the ids of their tokens.
        shown: What the token of a sign writes into texts where it belongs to no marker.
        anywhere: Whether a thought may begin in the middle of an answer. Where its marker is no token that texts leave
            out, such as `<think>` in Qwen 3, an answer may speak of it.
        answer: What may begin and end the answer's text.
    """

    form: ThoughtForm
    opening: str
    closing: str
    lead: str
    framing: tuple[str, ...]
    signs: dict[int, str]
    shown: dict[str, str]
    anywhere: bool
    answer: tuple[str, str] | None = None

    @classmethod
    def of(cls, form: ThoughtForm, tokenizer: Any, encoder: SafeEncoder) -> "ThoughtMarkers":
        """The markers of a form.

        Args:
            form: The form.
            tokenizer: The policy's.
            encoder: Its encoder, which knows its control tokens.
        """
        controls = {token.content: (i, token.special) for i, token in tokenizer.added_tokens_decoder.items()}
        names = dict.fromkeys(name for string in form.strings for name in encoder.control_sequence(string))
        of_name = {name: chr(_FIRST_SIGN + place) for place, name in enumerate(names) if name in controls}

        shown = {sign: "" if controls[name][1] else name for name, sign in of_name.items()}
        # what texts leave out cannot be part of one; nor can the headers of messages
        telling = {sign for sign in shown if form.lead or not shown[sign]}

        def signed(string: str) -> str:
            return encoder.pattern.sub(lambda match: of_name.get(match[0], match[0]), string)

        # blanks around a marker are no part of it, but those between words are
        opening, closing = signed(form.opening.strip("\n")), signed(form.closing)
        lead = signed(form.lead)
        framing = [lead, *map(signed, form.framing), closing]
        answer = form.answer and (signed(form.answer[0]), signed(form.answer[1]))
        if answer is None and lead and not telling & set(lead):
            # the same characters elsewhere are text
            answer = lead, ""
        return cls(
            form=form,
            opening=opening,
            closing=closing,
            lead=lead,
            framing=tuple(string for string in framing if telling & set(string)),
            signs={controls[name][0]: sign for name, sign in of_name.items()},
            shown=shown,
            anywhere=bool(telling & set(opening)),
            answer=answer,
        )

    def plain(self, text: str) -> str:
        """A text without signs."""
        return _SIGN.sub(lambda match: self.shown.get(match[0], match[0]), text)


class ThoughtSplitter:
    """Takes a growing text apart into thoughts and what is said.

    Attributes:
        thinking: Whether it is within a thought.
    """

    def __init__(self, markers: ThoughtMarkers, thinking: bool, fresh: bool = True, begins: bool = False) -> None:
        """Nothing was read yet.

        Args:
            markers: The markers.
            thinking: Whether the text begins within a thought.
            fresh: Whether nothing was said before it.
            begins: Whether a marker of the answer may begin it.
        """
        self.thinking = thinking
        self._markers = markers
        self._fresh = fresh and not thinking
        self._waiting = ""
        # whether the answer's own marker may come next, and whether its end may
        self._begins, self._wrapped = begins and markers.answer is not None, False
        # line breaks that are still to be left out
        self._gap = 1 if thinking else 0

    @property
    def undecided(self) -> bool:
        """Whether it holds something back that may be part of a marker."""
        return bool(self._waiting)

    def copy(self) -> "ThoughtSplitter":
        """The same state, to go on from twice."""
        return copy(self)

    def feed(self, text: str) -> list[Piece]:
        """Read on."""
        self._waiting += text
        return list(self._read(last=False))

    def finish(self) -> list[Piece]:
        """Read the end: what was held back is part of whatever it stands in; half a marker of control tokens is not."""
        return list(self._read(last=True))

    def _read(self, last: bool) -> Iterator[Piece]:
        while True:
            found = self._next_marker()
            if found is None:
                break
            place, marker = found
            before, self._waiting = self._waiting[:place], self._waiting[place + len(marker) :]
            if self.thinking:
                yield from self._out(before.removesuffix("\n"))
                self.thinking, self._gap = False, GAP
                answer = self._markers.answer
                self._wrapped = answer is not None and answer[0] == marker
                self._begins = answer is not None and not self._wrapped
                yield "closed", ""
            elif marker == self._markers.opening:
                # blanks before a thought that begins the answer are not the answer's
                yield from self._out("" if self._fresh and not self._markers.plain(before).strip() else before)
                self.thinking, self._gap = True, 1
                yield "opened", ""
            else:
                yield from self._out(before)
                yield "framing", ""
        self._waiting = self._without_gap(self._waiting)
        if not self.thinking:
            self._leave_out_answer_markers(last)
        held = self._held()
        ready, rest = self._waiting[: len(self._waiting) - held], self._waiting[len(self._waiting) - held :]
        if last:
            half = _SIGN.search(rest)
            ready, rest = self._waiting if half is None else ready + rest[: half.start()], ""
        self._waiting = rest
        yield from self._out(ready)

    def _leave_out_answer_markers(self, last: bool) -> None:
        """Those that stand where the answer begins and, once that is known, where it ends."""
        begin, end = self._markers.answer or ("", "")
        if self._begins:
            start = self._waiting.lstrip()
            if start.startswith(begin):
                self._begins, self._wrapped, self._gap = False, bool(end), GAP if end else 0
                self._waiting = self._without_gap(start.removeprefix(begin))
            elif not begin.startswith(start):
                self._begins = False
        if last and self._wrapped and self._waiting.rstrip().endswith(end):
            self._waiting = self._waiting.rstrip().removesuffix(end).rstrip("\n")

    def _held_by_answer(self, text: str) -> int:
        begin, end = self._markers.answer or ("", "")
        if self._begins and begin.startswith(text.lstrip()):
            return len(text)
        if not self._wrapped:
            return 0
        whole = text.rstrip()
        if whole.endswith(end):
            before = whole.removesuffix(end)
        else:
            begun = next((n for n in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:n])), 0)
            before = text[: len(text) - begun]
        # the line break before the marker is not the answer's
        return len(text) - len(before.rstrip("\n"))

    def _next_marker(self) -> tuple[int, str] | None:
        found = [(place, marker) for marker in self._wanted() if (place := self._waiting.find(marker)) >= 0]
        if not self.thinking and self._opens_only_here() and found:
            # text that merely speaks of the marker
            found = [one for one in found if one[1] != self._markers.opening or not self._waiting[: one[0]].strip()]
        return min(found, key=lambda one: (one[0], -len(one[1])), default=None)

    def _wanted(self) -> tuple[str, ...]:
        markers = self._markers
        if self.thinking:
            return (markers.closing,)
        return markers.framing if self._opens_only_here() and not self._fresh else (markers.opening, *markers.framing)

    def _opens_only_here(self) -> bool:
        return not self._markers.anywhere

    def _held(self) -> int:
        """How much at the end may be part of a marker, or of what is left out beside one."""
        text, held = self._waiting, 0
        for marker in self._wanted():
            for size in range(min(len(marker) - 1, len(text)), held, -1):
                if text.endswith(marker[:size]):
                    held = size
                    break
        if self.thinking and text[: len(text) - held].endswith("\n"):
            held += 1
        if self._fresh and not self.thinking:
            blank = len(text) - held - len(text[: len(text) - held].rstrip())
            if blank == len(text) - held:
                # nothing but blanks so far: they are the answer's only if no thought follows
                held += blank
            elif self._opens_only_here():
                held = self._held_by_framing(text)
        return held if self.thinking else max(held, self._held_by_answer(text))

    def _held_by_framing(self, text: str) -> int:
        sizes = [
            size
            for marker in self._markers.framing
            for size in range(min(len(marker) - 1, len(text)), 0, -1)
            if text.endswith(marker[:size])
        ]
        return max(sizes, default=0)

    def _without_gap(self, text: str) -> str:
        while self._gap and text.startswith("\n"):
            text, self._gap = text[1:], self._gap - 1
        return text

    def _out(self, text: str) -> Iterator[Piece]:
        text = self._markers.plain(text)
        text = self._without_gap(text)
        if not text:
            return
        self._gap = 0
        if not self.thinking and text.strip():
            self._fresh = False
        yield ("thought" if self.thinking else "text"), text


@dataclass(frozen=True)
class Thoughts:
    """How an answer's thoughts are told from what it says.

    Attributes:
        markers: Their markers.
        place: Where the prompt leaves off.
        supposed: Whether the template says nothing of thoughts: they are looked for, but grammars do not wait for any.
    """

    markers: ThoughtMarkers
    place: Place
    supposed: bool = False

    def splitter(self) -> ThoughtSplitter:
        """What takes such an answer apart."""
        return ThoughtSplitter(
            self.markers, self.place == "inside", self.place == "before", self.place in ("before", "behind")
        )
