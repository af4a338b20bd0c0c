"""A growing text taken apart into thoughts and what is said."""

from collections.abc import Iterator
from copy import copy
from typing import Literal

from langchain_saffron.templates.overlap import overlap
from langchain_saffron.templates.thought_markers import SIGN, ThoughtMarkers

# line breaks behind a thought that are not the answer's
GAP = 2

PieceKind = Literal["thought", "text", "opened", "closed", "framing"]
Piece = tuple[PieceKind, str]


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
            half = SIGN.search(rest)
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
        before = whole.removesuffix(end) if whole.endswith(end) else text[: len(text) - overlap(text, [end])]
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
        text = self._waiting
        held = overlap(text, self._wanted())
        if self.thinking and text[: len(text) - held].endswith("\n"):
            held += 1
        if self._fresh and not self.thinking:
            blank = len(text) - held - len(text[: len(text) - held].rstrip())
            if blank == len(text) - held:
                # nothing but blanks so far: they are the answer's only if no thought follows
                held += blank
            elif self._opens_only_here():
                held = overlap(text, self._markers.framing)
        return held if self.thinking else max(held, self._held_by_answer(text))

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
