"""Rewards of candidates alone: states, multiplied with the rows of the tokens that a search looks at."""

from collections.abc import Callable, Sequence

import torch

from langchain_saffron.errors import NumericalError
from langchain_saffron.models.unembedding import Unembedding
from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.branchless import column_any
from langchain_saffron.search.rewards import Rewards

# from this share of the vocabulary on, gathering rows costs more than multiplying with all of them
MOST_COLUMNS = 0.25
# on an accelerator every row of a beam is copied for that beam alone
MOST_GATHERED = 0.5

Spend = Callable[[float, int], None]


class CandidateRewards(Rewards):
    """`M(s)[a]` of the tokens that are asked for.

    On a CPU those of all nodes are one product with the rows that any of them wants. An accelerator is not asked what
    they are, which it would have to be waited for: there each node is multiplied with all of its columns.
    """

    def __init__(
        self,
        states: torch.Tensor,
        unembedding: Unembedding,
        bias: torch.Tensor,
        spend: Spend,
        level: torch.Tensor | None = None,
        unjudged: torch.Tensor | None = None,
    ) -> None:
        """Nothing is computed yet.

        Args:
            states: [nodes, width]: what the unembedding is applied to, on its device.
            unembedding: Of the reward model.
            bias: float32 [vocabulary of the policy], on the policy's device.
            spend: Told the FLOPs of every product, and of how many nodes.
            level: float32 [nodes, 1], on the policy's device: what is added to all rewards of a node, if anything.
            unjudged: bool [nodes, 1], on the policy's device; `None` for none.
        """
        self._states, self._unembedding, self._bias, self._spend = states, unembedding, bias, spend
        self._level = level
        self._all: torch.Tensor | None = None
        if unjudged is None:
            unjudged = torch.zeros(len(states), 1, dtype=torch.bool, device=bias.device)
        self.unjudged = unjudged

    def whole(self) -> torch.Tensor:
        """All rewards.

        Raises:
            NumericalError: Some are NaN or infinite.
        """
        table = self._table()
        if not bool(table.isfinite().all()):
            raise NumericalError.of_scores("reward model")
        return table.masked_fill(self.unjudged, torch.inf)

    def of(self, tokens: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
        """The wanted ones; whether they are numbers is for the caller to see."""
        if self._all is None and wanted.device.type == "cpu" and self._states.device.type == "cpu":
            found = self._of_any(tokens, wanted)
        elif tokens is not None and self._all is None and tokens.numel() <= MOST_GATHERED * self._unembedding.outputs:
            found = self._of_each(tokens)
        else:
            found = None
        if found is not None:
            return found
        return self._table() if tokens is None else self._table().gather(1, tokens)

    def rows(self, places: Sequence[int]) -> "CandidateRewards":
        """Those of other nodes."""
        taken = upload([max(place, 0) for place in places], torch.long, self._states.device)
        unjudged = upload([place < 0 for place in places], torch.bool, self._bias.device)[:, None]
        level = None if self._level is None else self._level[taken.to(self._level.device)]
        return CandidateRewards(self._states[taken], self._unembedding, self._bias, self._spend, level, unjudged)

    def aside(self) -> "CandidateRewards":
        """The same; its products are booked to nobody."""
        other = CandidateRewards(
            self._states, self._unembedding, self._bias, lambda flops, rows: None, self._level, self.unjudged
        )
        other._all = self._all
        return other

    def _of_any(self, tokens: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor | None:
        """By one product of all nodes with the tokens that any wants; `None` where those are too many."""
        if tokens is None:
            columns = column_any(wanted).nonzero()[:, 0]
        else:
            nodes, places = wanted.nonzero(as_tuple=True)
            asked = tokens[nodes, places]
            columns, inverse = asked.unique(return_inverse=True)
        if len(columns) > MOST_COLUMNS * self._unembedding.outputs:
            return None
        table = self._known(columns, lambda known: self._unembedding.columns(self._states, known))
        self._spend(self._unembedding.product * table.numel(), len(table))
        table = table + self._bias[columns]
        table = table if self._level is None else table + self._level
        found = torch.zeros(wanted.shape, dtype=table.dtype)
        if tokens is None:
            found[:, columns] = table
        else:
            found[nodes, places] = table[nodes, inverse]
        return found

    def _of_each(self, tokens: torch.Tensor) -> torch.Tensor:
        """By the product of each node with its own tokens."""
        moved = tokens.to(self._states.device)
        table = self._known(moved, lambda known: self._unembedding.gathered(self._states, known))
        self._spend(self._unembedding.product * table.numel(), len(table))
        found = table.to(self._bias.device) + self._bias[tokens]
        return found if self._level is None else found + self._level

    def _known(self, tokens: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What a product gives for tokens, and zeros for those that only the policy has."""
        outputs = self._unembedding.outputs
        if outputs >= len(self._bias):
            return product(tokens)
        return product(tokens.clamp(max=outputs - 1)) * (tokens < outputs)

    def _table(self) -> torch.Tensor:
        if self._all is None:
            logits = self._unembedding.whole(self._states)
            self._spend(self._unembedding.product * logits.numel(), len(logits))
            missing = len(self._bias) - logits.shape[-1]
            logits = torch.nn.functional.pad(logits, (0, missing)) if missing > 0 else logits[:, : len(self._bias)]
            found = logits.to(self._bias.device) + self._bias
            self._all = found if self._level is None else found + self._level
        return self._all
