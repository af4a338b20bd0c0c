"""The likeliest tokens that hold a given mass together (SAFFRON paper, equation 2)."""

import math

import numpy as np
import torch

from langchain_saffron.search.ragged import Ragged

# a nucleus seldom holds more tokens than this; on a device the rare wider one costs a look at the whole vocabulary
CHUNK = 256
# together they divide an interval of some tens to float32's own resolution
BUCKETS = 2**10
HISTOGRAMS = 3
# a CPU sorts so many tokens of one bucket, rather than make a finer histogram of them
MOST_SORTED = 2**12


def nucleus(logprobs: torch.Tensor, top_p: float, mass: torch.Tensor | None = None) -> torch.Tensor:
    """Which tokens have more likely rivals that hold less than `top_p` of the mass together.

    Args:
        logprobs: float32 [beams, vocabulary], normalised.
        top_p: In (0, 1].
        mass: float32 [beams, vocabulary]: their probabilities, where they are known.

    Returns:
        bool [beams, vocabulary]. Equally likely tokens are in or out together. The vocabulary is not sorted: the
        least log-probability that is in is found by histograms of the mass, each over one bucket of the one before.
        On a CPU the first one's bucket is sorted instead of that, as it holds few tokens.
    """
    if top_p >= 1:
        return logprobs > -torch.inf
    mass = logprobs.exp() if mass is None else mass
    # a beam that nothing continues has no likeliest token
    high = logprobs.amax(dim=-1, keepdim=True).clamp_min(-1e30)
    # less likely ones hold less than a millionth of the mass together, which float32 sums do not resolve
    low = high - 14 - math.log(logprobs.shape[1])
    everything: torch.Tensor | None = None
    for _ in range(HISTOGRAMS):
        size = (high - low) / BUCKETS
        # bucket 0 takes what lies above `high`, the last one what lies below `low`
        bucket = (high - logprobs).div_(size).add_(1).clamp_(0, BUCKETS + 1).long()
        histogram = torch.zeros(len(mass), BUCKETS + 2, dtype=mass.dtype, device=mass.device)
        sums = histogram.scatter_add_(1, bucket, mass).cumsum(-1)
        crossed = (sums < top_p).sum(-1, keepdim=True)
        if everything is None:
            everything = crossed > BUCKETS
            if logprobs.device.type == "cpu":
                least = _least_inside(logprobs, mass, bucket, sums, crossed, top_p)
                if least is not None:
                    return at_least(logprobs, least.masked_fill(everything, torch.finfo(least.dtype).min))
        # a little wider than the bucket where the mass is reached, so that rounding loses no token at its edge
        high, low = high - (crossed - 1.01) * size, torch.nextafter(high - (crossed + 0.01) * size, low)
    assert everything is not None
    return (logprobs > -torch.inf) & (everything | (logprobs > low))


def at_least(logprobs: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Which tokens of each row are as likely as that, on the CPU: bool [rows, columns]."""
    return torch.from_numpy(logprobs.numpy() >= least.numpy())


def _least_inside(
    logprobs: torch.Tensor,
    mass: torch.Tensor,
    bucket: torch.Tensor,
    sums: torch.Tensor,
    crossed: torch.Tensor,
    top_p: float,
) -> torch.Tensor | None:
    """The least log-probability that is in each nucleus, on the CPU.

    Args:
        logprobs: float32 [beams, vocabulary].
        mass: float32 [beams, vocabulary]: their probabilities.
        bucket: int64 [beams, vocabulary]: where each token is in the histogram.
        sums: float32 [beams, buckets]: the mass down to the end of each bucket.
        crossed: int64 [beams, 1]: the bucket in which `top_p` is reached.
        top_p: In (0, 1).

    Returns:
        float32 [beams, 1]; of a beam that does not reach `top_p` before the last bucket, any number. `None` where too
        many tokens would have to be sorted.
    """
    ends = crossed.where(crossed <= BUCKETS, -1)
    near = Ragged.of(np.equal(bucket.numpy(), ends.numpy()), MOST_SORTED)
    if near is None:
        return None
    values, order = near.take(logprobs, -torch.inf).sort(dim=-1, descending=True)
    weights = near.take(mass, 0.0).gather(1, order)
    before = sums.gather(1, (crossed - 1).clamp_(0, BUCKETS + 1))
    inside = before + (weights.cumsum(-1) - weights) < top_p
    return values.masked_fill(~inside | (values == -torch.inf), torch.inf).amin(dim=-1, keepdim=True)


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
