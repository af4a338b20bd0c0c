"""Rows of a trie that are computed together, in forwards of a size that is worth it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from langchain_saffron.models.decoder import TrieDecoder

# rows in one forward: more do not run faster, fewer leave matrix units idle
MOST_ROWS = 1024


@dataclass
class RowLot:
    """Rows that wait for the next forward, each once, and those of which an output is wanted.

    Attributes:
        decoder: The model.
        columns: The outputs that are wanted; `None` for all.
        places: Where each row stands among the others.
        groups: How many rows attend together, in order.
        scored: The places whose output is wanted, which may repeat.
    """

    decoder: TrieDecoder
    columns: Sequence[int] | None = None
    places: dict[int, int] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)

    @property
    def room(self) -> int:
        """How many more rows a forward takes."""
        return MOST_ROWS - len(self.places)

    def add(self, rows: Iterable[int], scored: Sequence[int] = ()) -> None:
        """Let rows wait, those that do not yet, as a group.

        Args:
            rows: Nodes of the forest.
            scored: Those of all that wait whose output is wanted.
        """
        before = len(self.places)
        for row in rows:
            self.places.setdefault(row, len(self.places))
        if len(self.places) > before:
            self.groups.append(len(self.places) - before)
        self.scored += [self.places[row] for row in scored]

    def missing(self, rows: Iterable[int]) -> list[int]:
        """Those that are neither computed nor wait."""
        return [row for row in rows if not self.decoder.forest.filled[row] and row not in self.places]

    def run(self) -> torch.Tensor:
        """Compute all that wait.

        Returns:
            The outputs that were wanted, [scored, columns].
        """
        rows, scored, groups = list(self.places), self.scored, self.groups
        self.places, self.groups, self.scored = {}, [], []
        outputs = self.decoder.forward(rows, scored, groups)
        # at once: a vocabulary of outputs a prefix would fill the memory
        return outputs if self.columns is None else outputs[:, self.columns]


def fill(decoder: TrieDecoder, paths: Iterable[Sequence[int]]) -> None:
    """Compute the keys and values of paths, as far as they are not there, as many together as a forward should hold.

    Args:
        decoder: The model.
        paths: Nodes of its forest, parents first.
    """
    lot = RowLot(decoder)
    for path in paths:
        rows = lot.missing(path)
        while rows:
            part = rows[: lot.room]
            rows = rows[len(part) :]
            lot.add(part)
            if not lot.room:
                lot.run()
    if lot.places:
        lot.run()
