"""The markers of thoughts in the tokens that a grammar is matched with."""

from collections.abc import Callable, Sequence

import torch

from langchain_saffron.grammar.vocabulary import TokenBytes
from langchain_saffron.templates.thought_markers import ThoughtMarkers
from langchain_saffron.templates.thought_splitter import GAP

# signs of control tokens come behind the 256 bytes
_FIRST_SIGN = 0x100


class ThoughtTokens:
    """What each token of a model writes, as a string of bytes and signs, and which tokens may follow in markers.

    Attributes:
        opening: The marker that begins a thought, in the same characters; likewise the others.
        closing: The one that ends it.
        lead: What comes before the answer's text.
        written: By token.
    """

    def __init__(self, markers: ThoughtMarkers, tokens: TokenBytes, end_tokens: Sequence[int]) -> None:
        """Read a vocabulary.

        Args:
            markers: How thoughts are marked.
            tokens: What each token writes.
            end_tokens: Tokens that end a turn: no thought ends so where a document has to follow.
        """
        self._signs = {sign: chr(_FIRST_SIGN + place) for place, sign in enumerate(markers.shown)}
        self.opening, self.closing, self.lead = map(
            self._characters, (markers.opening, markers.closing, markers.lead.strip("\n"))
        )
        self.written = [one.decode("latin-1") for one in tokens.tokens]
        for token, sign in markers.signs.items():
            if token < len(self.written):
                self.written[token] = self._signs[sign]
        known = [bool(one) for one in self.written]
        for token in tokens.special.values():
            known[token] = True
        self._known = torch.tensor(known)
        self._known[[token for token in end_tokens if token < len(known)]] = False
        self._by_text: dict[str, list[int]] = {}
        for token, text in enumerate(self.written):
            if text and self._known[token]:
                self._by_text.setdefault(text, []).append(token)
        self._longest = max(map(len, self._by_text), default=0)
        self._masks: dict[tuple[str, str], torch.Tensor] = {}

    def _characters(self, marker: str) -> str:
        return "".join(self._signs.get(one) or one.encode().decode("latin-1") for one in marker)

    def beginning(self, rest: str, beyond: bool) -> torch.Tensor:
        """Tokens that go on with a marker.

        Args:
            rest: What of it is still to be written.
            beyond: Whether they may write more than that.

        Returns:
            bool [vocabulary].
        """
        return self._mask(
            f"begin {beyond}",
            rest,
            lambda: [
                *(i for size in range(1, len(rest) + 1) for i in self._by_text.get(rest[:size], ())),
                *(i for text, ids in self._by_text.items() if beyond and text.startswith(rest) for i in ids),
            ],
        )

    def breaks(self, count: int) -> torch.Tensor:
        """Tokens that are nothing but line breaks, `count` at most."""
        return self._mask(
            "breaks", "\n" * count, lambda: [i for n in range(1, count + 1) for i in self._by_text.get("\n" * n, ())]
        )

    def thinking(self, tail: str) -> torch.Tensor:
        """Tokens that may follow within a thought: all but those that end it and say more at once.

        Args:
            tail: What may be the beginning of the closing marker.
        """
        key = ("thinking", tail)
        if key not in self._masks:
            mask = self._known.clone()
            last = self.closing[-1]
            for text, ids in self._by_text.items():
                if last in text and not self._ends_well(tail + text):
                    mask[ids] = False
            self._masks[key] = mask
        return self._masks[key]

    def behind(self, text: str) -> tuple[str, str | None]:
        """Where a thought stands that ends with `text`.

        Returns:
            What may be the beginning of the closing marker, and what was written behind it, if it was.
        """
        place = text.find(self.closing)
        if place >= 0:
            return "", text[place + len(self.closing) :]
        sizes = range(min(len(self.closing) - 1, len(text)), 0, -1)
        return next((text[-size:] for size in sizes if self.closing.startswith(text[-size:])), ""), None

    def spell(self, text: str) -> tuple[int, ...] | None:
        """Tokens that write a marker, as few as can easily be found; `None` where none do."""
        ids: list[int] = []
        while text:
            sizes = range(min(self._longest, len(text)), 0, -1)
            size = next((size for size in sizes if text[:size] in self._by_text), 0)
            if not size:
                return None
            ids.append(self._by_text[text[:size]][0])
            text = text[size:]
        return tuple(ids)

    def _ends_well(self, text: str) -> bool:
        rest = self.behind(text)[1]
        return rest is None or (not rest.strip("\n") and len(rest) <= GAP)

    def _mask(self, kind: str, text: str, ids: Callable[[], list[int]]) -> torch.Tensor:
        if (kind, text) not in self._masks:
            mask = torch.zeros_like(self._known)
            mask[ids()] = True
            self._masks[kind, text] = mask
        return self._masks[kind, text]
