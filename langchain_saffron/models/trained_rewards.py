"""What the training of a reward model tells of its rewards."""

from typing import Any, Literal

import torch

from langchain_saffron.models.mrm_quality import covers, held_out_record, usual_error


class TrainedRewards:
    """What MRMs and heads have in common: they know what their training showed them.

    Attributes:
        seen: bool tensor [vocabulary]: tokens that occurred as a training target.
        details: The directory's records: where the reward comes from, how it was trained.
    """

    seen: torch.Tensor
    details: dict[str, Any]

    @property
    def seen_tokens(self) -> int:
        """Tokens that training showed."""
        return int(self.seen.sum())

    @property
    def mask(self) -> Literal["strict", "soft"]:
        """What `mask="auto"` means with it: `"strict"` where its training showed enough tokens.

        That is a fifth of the vocabulary or 20,000 tokens, and, where training recorded it, 99.8% of the tokens of
        held-out answers. Where fewer were shown, the strict mask takes words out of benign answers.
        """
        enough = covers(self.seen_tokens, len(self.seen), held_out_record(self.details))
        return "strict" if enough else "soft"

    @property
    def error(self) -> float | None:
        """Points of reward by which its predictions are usually wrong, where its training recorded that."""
        return usual_error(self.details)
