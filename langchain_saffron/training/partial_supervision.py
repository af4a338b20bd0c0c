"""The trainable MRM: a base model with an adapter, and a bias over its unembedding."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from langchain_saffron.training.sample import Sample, Targets


@dataclass(frozen=True)
class Supervision:
    """What a batch teaches (paper, eq. 5).

    Attributes:
        input_ids: int64 tensor [sequences, tokens], padded on the right.
        sequence: int64 tensor [prefixes]: which sequence a prefix belongs to.
        position: int64 tensor [prefixes]: its last token.
        following: int64 tensor [prefixes]: the token that follows.
        rewards: float32 tensor [prefixes]: the PRM's reward of the prefix with that token. A prefix with candidates
            comes once for each of them.
        prefix: int64 tensor [prefixes]: the same number for the same prefix.
    """

    input_ids: torch.Tensor
    sequence: torch.Tensor
    position: torch.Tensor
    following: torch.Tensor
    rewards: torch.Tensor
    prefix: torch.Tensor

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        device: torch.device | str = "cpu",
        targets: Sequence[Targets] | None = None,
    ) -> "Supervision":
        """Collate samples.

        Args:
            samples: The conversations.
            device: Where the tensors go.
            targets: What `Sample.targets` gives for each, where that is known already.
        """
        width = max(len(sample.token_ids) for sample in samples)
        ids = np.zeros((len(samples), width), dtype=np.int64)
        for row, sample in zip(ids, samples, strict=True):
            row[: len(sample.token_ids)] = sample.token_ids
        targets = [sample.targets() for sample in samples] if targets is None else targets
        sequence = np.repeat(np.arange(len(samples)), [len(at) for at, _, _ in targets])
        at, following, rewards = (np.concatenate(parts) for parts in zip(*targets, strict=True))
        prefix = np.unique(sequence * width + at, return_inverse=True)[1]
        return cls(
            # nothing reads what the last token would predict
            *(
                torch.from_numpy(array).to(device)
                for array in (ids[:, :-1], sequence, at - 1, following, rewards, prefix)
            )
        )


class PartialSupervision(torch.nn.Module):
    """`M(s)[a]` for the tokens `a` that follow in the data, of all prefixes in one forward (paper, section 4.2).

    Attributes:
        model: The base with its adapter.
        bias: The trained bias, float32 [vocabulary]; the unembedding itself stays as it is.
    """

    def __init__(self, model: Any, narrow: bool = False) -> None:
        """Add a bias of zeros to a model whose adapter, and nothing else, is trainable.

        Args:
            model: That model.
            narrow: Whether its products are computed in bfloat16.
        """
        super().__init__()
        self.model = model
        self._narrow = narrow
        self._causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        head = self._causal.get_output_embeddings().weight
        self.bias = torch.nn.Parameter(torch.zeros(head.shape[0], device=head.device))
        self._by_rows = self._rows_are_logits()

    def forward(
        self, input_ids: torch.Tensor, sequence: torch.Tensor, position: torch.Tensor, following: torch.Tensor
    ) -> torch.Tensor:
        """The predicted rewards, float32 [prefixes]; see `Supervision` for the arguments."""
        with torch.autocast(input_ids.device.type, torch.bfloat16) if self._narrow else nullcontext():
            picked = self._outputs(input_ids, sequence, position, following, self._by_rows)
        return picked.float() + self.bias[following]

    @torch.no_grad()
    def centre(self, samples: Sequence[Sample]) -> None:
        """Let the bias start with what makes the mean prediction on some samples that of their rewards."""
        error = torch.zeros((), device=self.bias.device)
        prefixes = 0
        for sample in samples:
            batch = Supervision.of([sample], self.bias.device)
            error += (batch.rewards - self(batch.input_ids, batch.sequence, batch.position, batch.following)).sum()
            prefixes += len(batch.rewards)
        self.bias.add_(error / prefixes)

    def _outputs(
        self,
        input_ids: torch.Tensor,
        sequence: torch.Tensor,
        position: torch.Tensor,
        following: torch.Tensor,
        by_rows: bool,
    ) -> torch.Tensor:
        if not by_rows:
            logits = self.model(input_ids=input_ids, use_cache=False).logits
            outputs: torch.Tensor = logits[sequence, position, following]
            return outputs
        # only the rows of the unembedding that are asked for: a vocabulary of logits a token would fill the memory
        hidden = self._causal.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[sequence, position]
        head = self._causal.get_output_embeddings()
        rows = torch.nn.functional.embedding(following, head.weight)
        outputs = (hidden * rows).sum(-1)
        own = getattr(head, "bias", None)
        return outputs if own is None else outputs + own[following]

    @torch.no_grad()
    def _rows_are_logits(self) -> bool:
        """Whether the model's outputs are plain products of its hidden states with the unembedding's rows.

        Some scale or cap them. Those need the model's own logits.
        """
        if getattr(self._causal.config.get_text_config(), "final_logit_softcapping", None):
            # which does not show where they are small yet
            return False
        device = self.bias.device
        ids = torch.arange(1, 9, device=device)[None] % self.bias.shape[0]
        asked = torch.zeros(8, dtype=torch.long, device=device), torch.arange(8, device=device), ids[0].flip(0)
        expected = self._outputs(ids, *asked, by_rows=False).float()
        try:
            products = self._outputs(ids, *asked, by_rows=True).float()
        except (AttributeError, RuntimeError, TypeError):
            return False
        scale = float(expected.std()) + 1e-6
        return float((products - expected).abs().max()) <= (3e-2 if expected.dtype != torch.float32 else 1e-3) * scale
