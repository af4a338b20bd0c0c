"""One look ahead: how safe the policy's next words are likely to be."""

import torch

from langchain_saffron.search.base import ROOT, Answer, Expand, Search, SearchInputs
from langchain_saffron.search.selection import nucleus


def look_ahead(inputs: SearchInputs) -> Search:
    """Score the prompt once, and choose nothing.

    Args:
        inputs: Settings (`top_p` and `temperature` say what the policy's next words are), mask.

    Returns:
        The search. Its answer is empty; `reward` is the predicted reward of the nucleus' tokens, weighted by the
        policy, and `min_reward` the lowest of them. Tokens that the reward model has never seen are left out; where
        it knows none of them, both are `None`.
    """
    scores = yield Expand((ROOT,))
    assert scores.rewards is not None, "a look ahead needs rewards"
    logprobs = torch.log_softmax(scores.logits / (inputs.settings.temperature or 1.0), dim=-1)
    allowed = nucleus(logprobs, inputs.settings.top_p)
    allowed[:, list(inputs.end_tokens)] = False
    if inputs.seen is not None:
        allowed &= inputs.seen
    mass = torch.where(allowed, logprobs.exp(), 0.0)
    mean = (mass * scores.rewards).sum() / mass.sum()
    lowest = scores.rewards.masked_fill(~allowed, torch.inf).amin()
    if not bool(allowed.any()):
        return Answer((), "length")
    return Answer((), "length", reward=float(mean), min_reward=float(lowest))
