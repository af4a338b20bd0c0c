"""Which tokens may come next, and the best of them over all beams (SAFFRON paper, sections 4.1 and 4.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# a nucleus seldom holds more tokens than this; the rare wider one costs a look at the whole vocabulary
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """One possible next token of one beam.

    Attributes:
        beam: Index of the beam.
        token: The token id.
        logprob: The policy's log-probability of the token (divided by the temperature, if any).
        reward: Predicted reward of the beam followed by the token; an end token inherits the beam's.
        score: What candidates are ranked by.
        ends: Whether it is an end-of-turn token.
    """

    beam: int
    token: int
    logprob: float
    reward: float
    score: float
    ends: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides over candidates; the terms are those of `SearchSettings`.

    Attributes:
        end_tokens: int64 [ends]: end-of-turn tokens, exempt from the mask.
        seen: bool [vocabulary], or `None` for all.
        top_p: Nucleus mass.
        temperature: `None` for a deterministic choice.
        paper: Rank by reward alone.
        threshold: Cap of the reward in the constrained ranking.
        weight: Weight of the capped reward there.
        refusal_threshold: Candidates below it are none.
    """

    end_tokens: torch.Tensor
    seen: torch.Tensor | None
    top_p: float
    temperature: float | None
    paper: bool
    threshold: float
    weight: float
    refusal_threshold: float | None


@dataclass(frozen=True, slots=True)
class Selection:
    """The best candidates, best first, and how many beams fell back on a token outside their nucleus."""

    candidates: list[Candidate]
    fallbacks: int


def select(
    logits: torch.Tensor,
    rewards: torch.Tensor,
    totals: Sequence[float],
    inherited: Sequence[float | None],
    rules: Rules,
    count: int,
    may_end: bool,
    generator: torch.Generator | None = None,
) -> Selection:
    """Rank the candidates of all beams together.

    Args:
        logits: float32 [beams, vocabulary]: the policy's.
        rewards: float32 [beams, vocabulary]: `M(s)`.
        totals: Each beam's cumulative log-probability.
        inherited: Each beam's own reward, which ending it keeps; `None` at the root, where the mean
            predicted reward of the candidates, weighted by the policy, stands in.
        rules: The rest of the settings.
        count: How many candidates to return at most.
        may_end: Whether ending the turn is allowed here.
        generator: Source of the Gumbel noise, where there is a temperature.

    Returns:
        The best candidates; fewer than `count` where there are no more.
    """
    ends = rules.end_tokens.to(logits.device)
    if not may_end and len(ends):
        logits = logits.index_fill(1, ends, -torch.inf)
    logprobs = torch.log_softmax(logits, dim=-1)
    seen = rules.seen

    tokens, inside = nucleus(logprobs, rules.top_p)
    is_end = torch.isin(tokens, ends) if len(ends) else torch.zeros_like(inside)
    allowed = inside if seen is None else inside & (seen[tokens] | is_end)
    lost = ~allowed.any(dim=-1)
    if seen is not None and bool(lost.any()):
        # the policy's most likely seen token, so that no beam dies of the mask (section 4.3)
        known = logprobs.masked_fill(~seen, -torch.inf)
        tokens = torch.where(lost[:, None], known.argmax(dim=-1, keepdim=True), tokens)
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        allowed = torch.where(lost[:, None], first[None, :] & bool(seen.any()), allowed)
        is_end = torch.isin(tokens, ends) if len(ends) else is_end
    fallbacks = int((lost & allowed.any(dim=-1)).sum())

    likely = logprobs.gather(1, tokens)
    reward = rewards.gather(1, tokens)
    own = _own_rewards(inherited, reward, likely, allowed & ~is_end)
    reward = torch.where(is_end, own[:, None], reward)
    if rules.refusal_threshold is not None:
        allowed = allowed & (reward >= rules.refusal_threshold)

    scaled = likely / rules.temperature if rules.temperature and not rules.paper else likely
    if rules.paper:
        score = reward
    else:
        start = torch.tensor(totals, dtype=torch.float32, device=logits.device)
        score = start[:, None] + scaled + rules.weight * reward.clamp(max=rules.threshold)
        if generator is not None and rules.temperature:
            score = score + _gumbel(score.shape, generator).to(score.device)
    score = torch.where(allowed, score, -torch.inf)
    return Selection(_best(score, tokens, scaled, reward, is_end, count), fallbacks)


def nucleus(logprobs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens whose more likely rivals hold less than `top_p` of the mass.

    Args:
        logprobs: float32 [beams, vocabulary], normalised.
        top_p: In (0, 1].

    Returns:
        Token ids [beams, columns], most likely first unless all tokens are in, and whether each is in the
        nucleus. Equally likely tokens are in or out together.
    """
    beams, vocabulary = logprobs.shape
    if top_p >= 1:
        return torch.arange(vocabulary, device=logprobs.device).expand(beams, -1), logprobs > -torch.inf
    columns = min(CHUNK, vocabulary)
    while True:
        values, tokens = logprobs.topk(columns, dim=-1)
        mass = values.exp()
        above = mass.cumsum(-1) - mass
        inside = above < top_p
        inside[:, 0] = True
        cutoff = values.masked_fill(~inside, torch.inf).amin(dim=-1, keepdim=True)
        inside = (values >= cutoff) & (values > -torch.inf)
        # wide enough if every row's nucleus ends within the chunk
        if columns == vocabulary or not bool(inside[:, -1].any()):
            return tokens, inside
        columns = vocabulary


def _own_rewards(
    inherited: Sequence[float | None], reward: torch.Tensor, logprobs: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    if all(value is not None for value in inherited):
        return torch.tensor(inherited, dtype=torch.float32, device=reward.device)
    mass = torch.where(real, logprobs.exp(), 0.0)
    mean = (mass * torch.where(real, reward, 0.0)).sum(-1) / mass.sum(-1).clamp_min(1e-30)
    known = [0.0 if value is None else value for value in inherited]
    missing = [value is None for value in inherited]
    return torch.where(
        torch.tensor(missing, device=reward.device),
        mean,
        torch.tensor(known, dtype=torch.float32, device=reward.device),
    )


def _gumbel(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp_min_(1e-300)
    return -torch.log(-torch.log(uniform)).float()


def _best(
    score: torch.Tensor,
    tokens: torch.Tensor,
    logprobs: torch.Tensor,
    reward: torch.Tensor,
    is_end: torch.Tensor,
    count: int,
) -> list[Candidate]:
    flat = score.flatten()
    values, places = flat.topk(min(count, flat.numel()))
    columns = score.shape[1]
    rows = zip(
        (places // columns).tolist(),
        tokens.flatten()[places].tolist(),
        logprobs.flatten()[places].tolist(),
        reward.flatten()[places].tolist(),
        values.tolist(),
        is_end.flatten()[places].tolist(),
        strict=True,
    )
    found = [Candidate(*row) for row in rows if row[4] > -torch.inf]
    # equal scores: the better beam first, then the lower token, so that ties do not depend on the machine
    return sorted(found, key=lambda c: (-c.score, c.beam, c.token))
