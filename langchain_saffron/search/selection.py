"""Which tokens may come next, and the best of them over all beams (SAFFRON paper, sections 4.1 and 4.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from langchain_saffron.errors import NumericalError
from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.constraint import constrain
from langchain_saffron.search.looks import looks
from langchain_saffron.search.ranking import Asked, rank
from langchain_saffron.search.rewards import Rewards, RewardTable
from langchain_saffron.search.rules import Rules


@dataclass(frozen=True, slots=True)
class Candidate:
    """One possible next token of one beam.

    Attributes:
        beam: Index of the beam.
        token: The token id.
        logprob: The policy's log-probability of the token (divided by the temperature, if any; less what the soft mask
            takes for a token that the reward model has never seen).
        reward: Predicted reward of the beam followed by the token; an end token inherits the beam's.
        score: What candidates are ranked by.
        ends: Whether it is an end-of-turn token.
        risk: How unsafe the beam's next token is likely to be, whichever it is: the policy's expectation of
            `1 - sigmoid(0.8 · reward)` over the nucleus (SEAT, ACL 2026), in [0, 1].
    """

    beam: int
    token: int
    logprob: float
    reward: float
    score: float
    ends: bool
    risk: float = 0.0


@dataclass(frozen=True, slots=True)
class Selection:
    """The best candidates, best first, and how many beams fell back on a token outside their nucleus."""

    candidates: list[Candidate]
    fallbacks: int


def select(
    logits: torch.Tensor,
    rewards: Rewards | torch.Tensor,
    totals: Sequence[float],
    inherited: Sequence[float | None],
    rules: Rules,
    count: int,
    may_end: bool,
    generator: torch.Generator | None = None,
    permitted: torch.Tensor | None = None,
) -> Selection:
    """Rank the candidates of all beams together.

    Args:
        logits: float32 [beams, vocabulary]: the policy's.
        rewards: `M(s)`, asked for candidates alone; or float32 [beams, vocabulary], infinite in rows that nobody
            judges. In those the mask does not count, and every token inherits the reward, or at the root takes the
            threshold.
        totals: Each beam's cumulative log-probability.
        inherited: Each beam's own reward, which ending it keeps; `None` at the root, where the mean
            predicted reward of the candidates, weighted by the policy, stands in.
        rules: The rest of the settings.
        count: How many candidates to return at most.
        may_end: Whether ending the turn is allowed here.
        generator: Source of the Gumbel noise, where there is a temperature.
        permitted: bool [beams, vocabulary]: what a grammar allows, which then decides over ending too; `None`
            without one. The policy is renormalised over it, so that what is forced costs no likelihood.

    Returns:
        The best candidates; fewer than `count` where there are no more.

    Raises:
        NumericalError: The reward of a candidate is NaN or infinite.
    """
    rewards = rewards if isinstance(rewards, Rewards) else RewardTable(rewards)
    ends = upload(rules.end_tokens, torch.long, logits.device)
    if permitted is not None:
        # a beam that nothing continues has no candidates, rather than NaN
        logits = constrain(logits, upload(permitted, torch.bool, logits.device))
        logprobs = torch.log_softmax(logits, dim=-1).nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    else:
        if not may_end and len(ends):
            logits = logits.index_fill(1, ends, -torch.inf)
        logprobs = torch.log_softmax(logits, dim=-1)
    asked = Asked(logprobs, rewards, totals, inherited, rules, ends, count, generator, permitted is not None)
    for look in looks(logprobs, rules.top_p):
        table = rank(asked, look)
        # the one look at the device in most steps; a wide nucleus, or one that the mask empties, takes another
        (again, fallbacks, unsound, *_), *rows = table.tolist()
        if not again:
            break
    if unsound:
        raise NumericalError.of_scores("reward model")
    candidates = [
        Candidate(int(beam), int(token), logprob, reward, score, bool(end), risk)
        for beam, token, logprob, reward, score, end, risk in rows
        if score > -torch.inf
    ]
    # equal scores: the better beam first, then the lower token, so that ties do not depend on the machine
    return Selection(sorted(candidates, key=lambda c: (-c.score, c.beam, c.token)), int(fallbacks))
