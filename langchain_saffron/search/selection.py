"""Which tokens may come next, and the best of them over all beams (SAFFRON paper, sections 4.1 and 4.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from langchain_saffron.errors import NumericalError
from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.adaptive_width import STEEPNESS
from langchain_saffron.search.constraint import constrain
from langchain_saffron.search.mask import UNSEEN_COST, instead_of_nothing, prefer_seen, presumed_rewards, presumption
from langchain_saffron.search.nucleus import CHUNK, FIRST_LOOK, likeliest, nucleus
from langchain_saffron.search.rewards import Rewards, RewardTable

# what a nat of likelihood counts, in points of reward, where the ranking is by rewards alone and nobody judges
UNJUDGED = 1e-3
NO_MARKS = torch.zeros(0, dtype=torch.long)


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
    asked = _Ranked(logprobs, rewards, totals, inherited, rules, ends, count, generator, permitted is not None)
    for look in _looks(logprobs, rules):
        table = _rank(asked, look)
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


def _looks(logprobs: torch.Tensor, rules: Rules) -> list[int | None]:
    """At how many tokens a beam to look, one after the other until that is enough; `None` is the whole vocabulary."""
    if rules.top_p >= 1 or logprobs.shape[1] <= CHUNK:
        return [None]
    return [FIRST_LOOK, CHUNK, None] if logprobs.device.type == "cpu" else [CHUNK, None]


@dataclass(frozen=True, slots=True)
class _Ranked:
    """What is ranked: the arguments of `select`, made ready on the device.

    Attributes:
        logprobs: float32 [beams, vocabulary]: the policy's, of what may come next.
        rewards: `M(s)`.
        totals: Each beam's cumulative log-probability.
        inherited: Each beam's own reward; `None` at the root.
        rules: The rest of the settings.
        ends: int64 [end tokens].
        count: How many candidates are wanted.
        generator: Source of the Gumbel noise, if there is any.
        constrained: Whether a grammar has decided over `logprobs`.
    """

    logprobs: torch.Tensor
    rewards: Rewards
    totals: Sequence[float]
    inherited: Sequence[float | None]
    rules: Rules
    ends: torch.Tensor
    count: int
    generator: torch.Generator | None
    constrained: bool


def _rank(asked: _Ranked, look: int | None) -> torch.Tensor:
    """The best candidates as float32 rows [beam, token, logprob, reward, score, ends, risk], on the device.

    The first row holds whether the whole vocabulary has to be looked at (a nucleus was cut short, or the mask
    left a beam nothing of it), how many beams fell back on a token outside their nucleus, and whether a reward is no
    number.
    """
    logprobs, rewards, inherited, rules, ends = asked.logprobs, asked.rewards, asked.inherited, asked.rules, asked.ends
    seen, tokens, whole = rules.seen, None, look is None
    marks = upload(rules.marks, torch.long, logprobs.device)
    free = rewards.unjudged
    again = fallbacks = torch.zeros((), dtype=torch.bool, device=logprobs.device)
    if look is None:
        likely, known = logprobs, seen
        allowed = nucleus(logprobs, rules.top_p)
        is_end = torch.zeros_like(allowed).index_fill(1, ends, True)
        exempt = free | (is_end.index_fill(1, marks, True) if len(marks) else is_end)
    else:
        likely, tokens, allowed, again = likeliest(logprobs, rules.top_p, look)
        known = seen if seen is None else seen[tokens]
        is_end = torch.isin(tokens, ends)
        exempt = free | (is_end | torch.isin(tokens, marks) if len(marks) else is_end)
    unseen = pool = None
    if known is not None and rules.soft:
        unseen = ~(known | exempt)
        pool, unclear = presumption(inherited, likely, known & ~exempt, allowed)
        again = again | unclear if not whole else again
    elif seen is not None and known is not None:
        allowed = allowed & (known | exempt)
        lost = ~allowed.any(dim=-1, keepdim=True)
        if asked.constrained:
            instead, unclear = instead_of_nothing(likely, known, exempt)
            again = again | (lost & unclear).any() if not whole else again
            allowed = allowed | (instead & lost)
            fallbacks = (lost & instead.any(dim=-1, keepdim=True)).sum()
        elif whole:
            # the policy's most likely seen token, so that no beam dies of the mask (section 4.3)
            best = logprobs.masked_fill(~seen, -torch.inf).argmax(dim=-1, keepdim=True)
            allowed = allowed | (torch.zeros_like(allowed).scatter(1, best, True) & lost & seen)
            fallbacks = (lost & allowed.any(dim=-1, keepdim=True)).sum()
        else:
            again = again | lost.any()
    if again.device.type == "cpu" and bool(again):
        # a look costs nothing here, and rewards that nobody will use do
        return torch.ones(1, 3)

    wanted = allowed & ~exempt
    if unseen is not None:
        wanted = wanted & ~unseen if pool is None else wanted & ~unseen | pool
    reward = rewards.of(tokens, wanted)
    unsound = (wanted & ~reward.isfinite()).any()
    if unseen is not None:
        presumed = presumed_rewards(inherited, reward, likely, pool) - rules.doubt
        reward = torch.where(unseen, presumed[:, None], reward)
    own = _own_rewards(inherited, reward, likely, allowed & ~exempt)
    if None in inherited:
        least = max(rules.threshold, rules.refusal_threshold or rules.threshold)
        missing = upload([value is None for value in inherited], torch.bool, reward.device)
        own = torch.where(missing & free[:, 0], least, own)
    reward = torch.where(exempt, own[:, None], reward)
    risk = _risk(likely, reward, allowed)
    if rules.refusal_threshold is not None:
        allowed = allowed & (reward >= rules.refusal_threshold)
    scaled = likely / rules.temperature if rules.temperature and not rules.paper else likely
    if unseen is not None:
        scaled = prefer_seen(scaled, unseen, allowed, rules.weight * UNSEEN_COST)
    if rules.paper:
        score = reward if unseen is None else reward - UNSEEN_COST * unseen
        # where all rewards are the same, the policy decides
        score = torch.where(free, score + UNJUDGED * likely, score)
    else:
        start = upload(asked.totals, torch.float32, logprobs.device)
        score = start[:, None] + scaled + rules.weight * reward.clamp(max=rules.threshold)
        if asked.generator is not None and rules.temperature:
            score = score + upload(_gumbel(score.shape, asked.generator), torch.float32, score.device)
    score = torch.where(allowed, score, -torch.inf)

    columns = score.shape[1]
    values, places = score.topk(min(asked.count, columns), dim=-1)
    beams = torch.arange(len(score), device=score.device)[:, None].expand_as(places).flatten()
    values, picked = values.flatten().topk(min(asked.count, values.numel()))
    beams, places = beams[picked], places.flatten()[picked]
    chosen = places if tokens is None else tokens[beams, places]
    chances, gained = scaled[beams, places], reward[beams, places]
    fields = [beams, chosen, chances, gained, values, is_end[beams, places], risk[beams]]
    flags = torch.stack([again.float(), fallbacks.float(), unsound.float()])
    return torch.cat(
        [
            torch.nn.functional.pad(flags, (0, len(fields) - 3))[None],
            torch.stack([field.float() for field in fields], dim=1),
        ]
    )


def _risk(likely: torch.Tensor, reward: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """float32 [beams]: how unsafe the next token is likely to be."""
    mass = torch.where(allowed, likely.exp(), 0.0)
    return (mass * torch.sigmoid(-STEEPNESS * reward)).sum(-1) / mass.sum(-1).clamp_min(1e-30)


def _own_rewards(
    inherited: Sequence[float | None], reward: torch.Tensor, logprobs: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    known = upload([0.0 if value is None else value for value in inherited], torch.float32, reward.device)
    missing = [value is None for value in inherited]
    if not any(missing):
        return known
    mass = torch.where(real, logprobs.exp(), 0.0)
    mean = (mass * torch.where(real, reward, 0.0)).sum(-1) / mass.sum(-1).clamp_min(1e-30)
    return torch.where(upload(missing, torch.bool, reward.device), mean, known)


def _gumbel(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp_min_(1e-300)
    return -torch.log(-torch.log(uniform)).float()
