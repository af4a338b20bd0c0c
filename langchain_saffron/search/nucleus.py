"""The likeliest tokens that hold a given mass together (SAFFRON paper, equation 2)."""

import math

import torch

# a nucleus seldom holds more tokens than this; the rare wider one costs a look at the whole vocabulary
CHUNK = 256
# most hold fewer still; to find these takes a CPU a quarter of the time, and another look costs nothing else there
FIRST_LOOK = 64
# together they divide an interval of some tens to float32's own resolution
BUCKETS = 2**10
HISTOGRAMS = 3


def nucleus(logprobs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Which tokens have more likely rivals that hold less than `top_p` of the mass together.

    Args:
        logprobs: float32 [beams, vocabulary], normalised.
        top_p: In (0, 1].

    Returns:
        bool [beams, vocabulary]. Equally likely tokens are in or out together. Nothing is sorted: the least
        log-probability that is in is found by histograms of the mass, each over one bucket of the one before.
    """
    possible = logprobs > -torch.inf
    if top_p >= 1:
        return possible
    mass = logprobs.exp()
    # a beam that nothing continues has no likeliest token
    high = logprobs.amax(dim=-1, keepdim=True).clamp_min(-1e30)
    # less likely ones hold less than a millionth of the mass together, which float32 sums do not resolve
    low = high - 14 - math.log(logprobs.shape[1])
    everything = torch.where(logprobs > low, mass, 0.0).sum(-1, keepdim=True) < top_p
    for _ in range(HISTOGRAMS):
        size = (high - low) / BUCKETS
        # bucket 0 takes what lies above `high`, the last one what lies below `low`
        bucket = (high - logprobs).div_(size).add_(1).clamp_(0, BUCKETS + 1).long()
        histogram = torch.zeros(len(mass), BUCKETS + 2, dtype=mass.dtype, device=mass.device)
        histogram.scatter_add_(1, bucket, mass)
        crossed = (histogram.cumsum(-1) < top_p).sum(-1, keepdim=True)
        # a little wider than the bucket where the mass is reached, so that rounding loses no token at its edge
        high, low = high - (crossed - 1.01) * size, torch.nextafter(high - (crossed + 0.01) * size, low)
    return possible & (everything | (logprobs > low))


def inside_sorted(mass: torch.Tensor, top_p: float) -> torch.Tensor:
    """The same where the tokens are sorted: whether those before each hold less than `top_p` together.

    Args:
        mass: float32 [..., tokens]: probabilities, most likely first.
        top_p: In (0, 1].
    """
    return mass.cumsum(-1) - mass < top_p


def likeliest(
    logprobs: torch.Tensor, top_p: float, count: int = CHUNK
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same among the `count` most likely tokens only, which is enough for a nucleus of usual size.

    Returns:
        Log-probabilities and ids of those tokens, [beams, columns], most likely first; whether each is in the
        nucleus; and, a scalar, whether a nucleus may be wider than that.
    """
    values, tokens = logprobs.topk(count, dim=-1)
    inside = inside_sorted(values.exp(), top_p)
    inside[:, 0] = True
    cutoff = values.masked_fill(~inside, torch.inf).amin(dim=-1, keepdim=True)
    inside = (values >= cutoff) & (values > -torch.inf)
    return values, tokens, inside, inside[:, -1].any()
