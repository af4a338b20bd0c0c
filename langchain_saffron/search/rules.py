"""What decides over the candidates of a step."""

from dataclasses import dataclass

import torch

NO_MARKS = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides over candidates; the terms are those of `SearchSettings`.

    Attributes:
        end_tokens: int64 [ends]: end-of-turn tokens, exempt from the mask.
        seen: bool [vocabulary], or `None` for all.
        soft: Whether unseen tokens are candidates at a cost, rather than none.
        top_p: Nucleus mass.
        temperature: `None` for a deterministic choice.
        paper: Rank by reward alone.
        threshold: Cap of the reward in the constrained ranking.
        weight: Weight of the capped reward there.
        refusal_threshold: Candidates below it are none.
        marks: int64 [marks]: tokens that are exempt from the mask like end tokens, and inherit the reward like those.
        doubt: Points of reward that the soft mask takes an unseen token to be less safe than what stands before it.
    """

    end_tokens: torch.Tensor
    seen: torch.Tensor | None
    soft: bool
    top_p: float
    temperature: float | None
    paper: bool
    threshold: float
    weight: float
    refusal_threshold: float | None
    marks: torch.Tensor = NO_MARKS
    doubt: float = 0.0
