"""The loss of predicted rewards, where prefixes have several."""

import torch

# of what the tokens of a prefix differ by. On smollm2's head r among candidates is 0.51 with 0, 0.69 with 4, 0.75 with
# 16 and 0.76 with 64, and r of what was said no worse
CHOICE_WEIGHT = 16.0

# of what follows candidates, beside that of what was said: with both, attacks on smollm2's head break 0.28 and 0.25 at
# widths 4 and 16, and without 0.48 and 0.63. With a commit lag of 8, 0.38 and 0.28, with a weight of 0.5 0.40 and 0.48:
# r of what was said rises with less (0.76 to 0.80), the error between what follows as well (1.0 to 1.2)
SIBLING_WEIGHT = 4.0


def squared_errors(error: torch.Tensor, prefix: torch.Tensor, weight: float = CHOICE_WEIGHT) -> torch.Tensor:
    """Squared errors (SAFFRON paper, eq. 5, over all known tokens), and those of how a prefix's tokens differ.

    A prefix decides most of a reward, and the token after it little: squares alone teach the level of a prefix long
    before the choice among its tokens. So errors about the mean of each prefix's count once more; where a prefix has
    one token, there are none.

    Args:
        error: float tensor [rewards]: predicted less known.
        prefix: int64 tensor [rewards]: which prefix each belongs to, below their number.
        weight: Of the errors about that mean.

    Returns:
        A scalar: their sum, the latter times `weight`.
    """
    count = error.new_zeros(len(error)).index_add(0, prefix, torch.ones_like(error))
    mean = error.new_zeros(len(error)).index_add(0, prefix, error) / count.clamp_min(1)
    return error.pow(2).sum() + weight * (error - mean[prefix]).pow(2).sum()
