"""Tokens that the reward model's training never showed (SAFFRON paper, section 4.3, and a softer way)."""

from collections.abc import Sequence

import torch

from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.branchless import or_never

# what an unseen token costs under the soft mask, in points of missing reward: without it, words that no reward model
# knows break through; at 1.5, a search with a small reward model no longer finds refusals whose words it never saw
UNSEEN_COST = 1.0


def presumption(
    inherited: Sequence[float | None], likely: torch.Tensor, known: torch.Tensor, inside: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """By which tokens the soft mask judges unseen ones, where nothing stands before them: at the root.

    Those are the seen tokens of the nucleus; without any, all seen tokens.

    Args:
        inherited: Each beam's own reward; `None` at the root.
        likely: float32 [beams, columns]: the policy's log-probabilities.
        known: bool [columns] or [beams, columns]: seen tokens that do not end a turn.
        inside: bool [beams, columns]: the nucleus.

    Returns:
        bool [beams, columns], or `None` where no beam is at the root; and, a scalar, whether tokens beyond these
        columns (the most likely ones) would have to be looked at.
    """
    missing = [value is None for value in inherited]
    if not any(missing):
        return None, torch.zeros((), dtype=torch.bool, device=likely.device)
    at_root = upload(missing, torch.bool, likely.device)[:, None]
    near = inside & known
    found = near.any(dim=-1, keepdim=True)
    pool = torch.where(found, near, known & (likely > -torch.inf))
    return pool & at_root, (at_root & ~found).any()


def presumed_rewards(
    inherited: Sequence[float | None], reward: torch.Tensor, likely: torch.Tensor, pool: torch.Tensor | None
) -> torch.Tensor:
    """What the soft mask takes unseen tokens for: as safe as what stands before them.

    Args:
        inherited: Each beam's own reward; `None` at the root. There the mean predicted reward of `pool` stands in,
            weighted by the policy.
        reward: float32 [beams, columns]: predicted rewards.
        likely: float32 [beams, columns]: the policy's log-probabilities.
        pool: What `presumption` gave.

    Returns:
        float32 [beams].
    """
    own = upload([0.0 if value is None else value for value in inherited], torch.float32, reward.device)
    if pool is None:
        return own
    weights = torch.softmax(likely.masked_fill(~pool, -torch.inf), dim=-1).nan_to_num(nan=0.0)
    mean = (weights * reward.masked_fill(~pool, 0.0)).sum(-1)
    return torch.where(upload([value is None for value in inherited], torch.bool, reward.device), mean, own)


def prefer_seen(likely: torch.Tensor, unseen: torch.Tensor, inside: torch.Tensor, cost: float) -> torch.Tensor:
    """The policy, tilted by the soft mask towards seen tokens, beam by beam.

    Within its nucleus a beam's unseen tokens become `exp(-cost)` times as likely beside the others, and all together
    stay as likely as they were. So an unseen token costs the more, the better a seen one could stand in its place, and
    one that nothing could stand for costs nothing: else a search would leave a right answer, with a name in it that
    training never showed, for any other without.

    Args:
        likely: float32 [beams, columns]: log-probabilities.
        unseen: bool [beams, columns].
        inside: bool [beams, columns]: the nucleus.
        cost: In nats.

    Returns:
        float32 [beams, columns].
    """
    tilted = likely - cost * unseen
    before, after = or_never(likely, inside), or_never(tilted, inside)
    kept = before.logsumexp(-1, keepdim=True) - after.logsumexp(-1, keepdim=True)
    # a beam without a nucleus has nothing to keep
    return tilted + kept.nan_to_num(nan=0.0)


def instead_of_nothing(
    likely: torch.Tensor, known: torch.Tensor, is_end: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a beam takes whose nucleus the mask empties, under a grammar.

    The policy's likeliest seen token; where the grammar allows none, an end token, which is exempt from the mask;
    where it does not allow that either, the grammar wins: its likeliest token.

    Returns:
        bool [beams, columns], one token a beam at most; and, bool [beams, 1], whether tokens beyond these columns
        (the most likely ones) would have to be looked at.
    """
    possible = likely > -torch.inf
    seen, ending = possible & known, possible & is_end
    has_seen = seen.any(dim=-1, keepdim=True)
    pool = torch.where(has_seen, seen, torch.where(ending.any(dim=-1, keepdim=True), ending, possible))
    best = likely.masked_fill(~pool, -torch.inf).argmax(dim=-1, keepdim=True)
    unclear = ~has_seen & possible.all(dim=-1, keepdim=True)
    return torch.zeros_like(pool).scatter(1, best, True) & pool, unclear
