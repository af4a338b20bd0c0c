"""Some columns of each row of a table, on the CPU."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, slots=True)
class Ragged:
    """Columns of each row, which are not as many in each.

    Attributes:
        places: int64 [rows, most]: their numbers, in ascending order; zeros behind a row's last.
        empty: bool [rows, most]: where there is none.
    """

    places: torch.Tensor
    empty: torch.Tensor

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_], most: int) -> "Ragged | None":
        """Those that a mask holds for.

        Args:
            mask: [rows, columns].
            most: How many of a row there may be.

        Returns:
            `None` where a row has more.
        """
        rows, width = mask.shape
        if np.count_nonzero(mask) > rows * most:
            return None
        found = np.flatnonzero(mask)
        begins = np.searchsorted(found, np.arange(rows + 1) * width)
        counts = np.diff(begins)
        columns = max(int(counts.max(initial=0)), 1)
        if columns > most:
            return None
        order = np.arange(columns)
        empty = order >= counts[:, None]
        if not len(found):
            return cls(torch.zeros(rows, columns, dtype=torch.long), torch.from_numpy(empty))
        places = found[np.minimum(begins[:-1, None] + order, len(found) - 1)] % width
        return cls(torch.from_numpy(places).masked_fill_(torch.from_numpy(empty), 0), torch.from_numpy(empty))

    def take(self, table: torch.Tensor, fill: float) -> torch.Tensor:
        """What a table [rows, columns] holds there, [rows, most]; `fill` where there is nothing."""
        return table.gather(1, self.places).masked_fill_(self.empty, fill)
