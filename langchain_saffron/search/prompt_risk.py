"""One look ahead: how safe the policy's next words are likely to be."""

import torch

from langchain_saffron.errors import NumericalError
from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.constraint import constrain, permitted
from langchain_saffron.search.node import ROOT
from langchain_saffron.search.nucleus import nucleus
from langchain_saffron.search.protocol import Answer, Expand, Search, SearchInputs


def look_ahead(inputs: SearchInputs) -> Search:
    """Score the prompt once, and choose nothing.

    Args:
        inputs: Settings (`top_p` and `temperature` say what the policy's next words are), mask, grammar.

    Returns:
        The search. Its answer is empty; `reward` is the predicted reward of the nucleus' tokens, weighted by the
        policy, and `min_reward` the lowest of them. Tokens that the reward model has never seen are left out; where
        it knows none of them, or the words are a thought that it does not see, both are `None`.
    """
    scores = yield Expand((ROOT,))
    assert scores.predicted is not None, "a look ahead needs rewards"
    logits = scores.logits
    if inputs.constraint is not None:
        mask = permitted([inputs.constraint], inputs.end_tokens, may_end=True)
        logits = constrain(logits, upload(mask, torch.bool, logits.device))
    logprobs = torch.log_softmax(logits / (inputs.settings.temperature or 1.0), dim=-1)
    allowed = nucleus(logprobs, inputs.settings.top_p)
    allowed[:, list(inputs.end_tokens)] = False
    if inputs.seen is not None:
        allowed &= inputs.seen
    mass = torch.where(allowed, logprobs.exp(), 0.0)
    if not bool((allowed & ~scores.predicted.unjudged).any()):
        return Answer((), "length")
    rewards = scores.predicted.of(None, allowed)
    mean = (mass * rewards.masked_fill(~allowed, 0.0)).sum() / mass.sum()
    lowest = rewards.masked_fill(~allowed, torch.inf).amin()
    if not bool(lowest.isfinite() & mean.isfinite()):
        raise NumericalError.of_scores("reward model")
    return Answer((), "length", reward=float(mean), min_reward=float(lowest))
