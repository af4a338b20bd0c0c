"""The best candidates of some beams, among the tokens that are looked at (SAFFRON paper, sections 4.1 and 4.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.adaptive_width import STEEPNESS
from langchain_saffron.search.branchless import or_never, or_nothing, row_any, unsound
from langchain_saffron.search.looks import Look
from langchain_saffron.search.mask import UNSEEN_COST, instead_of_nothing, prefer_seen, presumed_rewards, presumption
from langchain_saffron.search.rewards import Rewards
from langchain_saffron.search.rules import Rules

# what a nat of likelihood counts, in points of reward, where the ranking is by rewards alone and nobody judges
UNJUDGED = 1e-3


@dataclass(frozen=True, slots=True)
class Asked:
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

    def kinds(self, tokens: torch.Tensor | None, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens end a turn, and which of them the mask and the reward model do not decide over.

        Args:
            tokens: int64 [beams, columns]; `None` for the whole vocabulary.
            like: [beams, columns] on the device.

        Returns:
            bool [beams, columns] each.
        """
        marks = upload(self.rules.marks, torch.long, like.device)
        if tokens is None:
            is_end = torch.zeros_like(like, dtype=torch.bool).index_fill_(1, self.ends, True)
            exempt = is_end.index_fill(1, marks, True) if len(marks) else is_end
        else:
            is_end = torch.isin(tokens, self.ends)
            exempt = is_end | torch.isin(tokens, marks) if len(marks) else is_end
        return is_end, self.rewards.unjudged | exempt


def rank(asked: Asked, look: Look) -> torch.Tensor:
    """The best candidates as float32 rows [beam, token, logprob, reward, score, ends, risk], on the device.

    The first row holds whether the whole vocabulary has to be looked at (a nucleus was cut short, or the mask
    left a beam nothing of it), how many beams fell back on a token outside their nucleus, and whether a reward is no
    number.
    """
    rewards, inherited, rules = asked.rewards, asked.inherited, asked.rules
    on_cpu, whole = asked.logprobs.device.type == "cpu", look.tokens is None
    nothing = torch.zeros((), dtype=torch.bool, device=asked.logprobs.device)
    again, fallbacks = nothing if look.again is None else look.again, nothing
    is_end, exempt = asked.kinds(look.tokens, look.inside)
    known = None if rules.seen is None else rules.seen if look.tokens is None else rules.seen[look.tokens]
    if known is not None and not rules.soft:
        look = replace(look, inside=look.inside & (known | exempt))
        lost = ~row_any(look.inside)
        if on_cpu:
            if bool(lost.any()):
                look, fallbacks = _instead(asked, look, lost)
                is_end, exempt = asked.kinds(look.tokens, look.inside)
        else:
            look, fallbacks, more = _instead_on_device(asked, look, lost, known, exempt)
            again = again if whole else again | more
    likely, tokens, allowed, free = look.likely, look.tokens, look.inside, rewards.unjudged
    unseen = pool = None
    if known is not None and rules.soft:
        unseen = ~(known | exempt)
        pool, unclear = presumption(inherited, likely, known & ~exempt, allowed)
        again = again if whole else again | unclear
    if on_cpu and bool(again):
        # a look costs nothing here, and rewards that nobody will use do
        return torch.ones(1, 3)

    wanted = allowed & ~exempt
    if unseen is not None:
        wanted = wanted & ~unseen if pool is None else wanted & ~unseen | pool
    reward = rewards.of(tokens, wanted)
    damaged = unsound(reward, wanted)
    if unseen is not None:
        presumed = presumed_rewards(inherited, reward, likely, pool) - rules.doubt
        reward = torch.where(unseen, presumed[:, None], reward)
    own = _own_rewards(inherited, reward, look.mass, allowed & ~exempt)
    if None in inherited:
        least = max(rules.threshold, rules.refusal_threshold or rules.threshold)
        missing = upload([value is None for value in inherited], torch.bool, reward.device)
        own = torch.where(missing & free[:, 0], least, own)
    if not on_cpu or bool(row_any(exempt).any()):
        reward = torch.where(exempt, own[:, None], reward)
    risk = _risk(look.mass, reward, allowed)
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
        start = upload(asked.totals, torch.float32, likely.device)
        score = (start[:, None] + scaled).add_(reward.clamp(max=rules.threshold).mul_(rules.weight))
        if asked.generator is not None and rules.temperature:
            score = score + upload(_noise(look, asked), torch.float32, score.device)
    score = or_never(score, allowed)

    values, places = score.topk(min(asked.count, score.shape[1]), dim=-1)
    beams = torch.arange(len(score), device=score.device)[:, None].expand_as(places).flatten()
    values, picked = values.flatten().topk(min(asked.count, values.numel()))
    beams, places = beams[picked], places.flatten()[picked]
    chosen = places if tokens is None else tokens[beams, places]
    chances, gained = scaled[beams, places], reward[beams, places]
    fields = [beams, chosen, chances, gained, values, is_end[beams, places], risk[beams]]
    flags = torch.stack([again.float(), fallbacks.float(), damaged.float()])
    return torch.cat(
        [
            torch.nn.functional.pad(flags, (0, len(fields) - 3))[None],
            torch.stack([field.float() for field in fields], dim=1),
        ]
    )


def _instead(asked: Asked, look: Look, lost: torch.Tensor) -> tuple[Look, torch.Tensor]:
    """A token each for beams whose nucleus the mask empties, on the CPU, so that none dies of it (section 4.3).

    Args:
        asked: What is ranked.
        look: What is left of it.
        lost: bool [beams, 1]: those beams.

    Returns:
        The look with those tokens, and how many there are.
    """
    rows, seen = lost[:, 0].nonzero()[:, 0], asked.rules.seen
    assert seen is not None
    logprobs = asked.logprobs[rows]
    if asked.constrained:
        _, exempt = asked.kinds(None, asked.logprobs)
        pool, _ = instead_of_nothing(logprobs, seen, exempt[rows])
    else:
        # the policy's most likely seen token
        best = or_never(logprobs, seen.expand_as(logprobs)).argmax(dim=-1, keepdim=True)
        pool = torch.zeros_like(logprobs, dtype=torch.bool).scatter_(1, best, seen[best])
    found, token = pool.any(dim=-1), pool.to(torch.uint8).argmax(dim=-1)
    rows, token = rows[found], token[found]
    if not len(rows):
        return look, found.sum()
    return look.beside(rows, token, asked.logprobs[rows, token]), found.sum()


def _instead_on_device(
    asked: Asked, look: Look, lost: torch.Tensor, known: torch.Tensor, exempt: torch.Tensor
) -> tuple[Look, torch.Tensor, torch.Tensor]:
    """The same where nothing is read from the device; and whether the whole vocabulary has to be looked at for it."""
    if asked.constrained:
        instead, unclear = instead_of_nothing(look.likely, known, exempt)
    elif look.tokens is None:
        best = look.likely.masked_fill(~known, -torch.inf).argmax(dim=-1, keepdim=True)
        instead = torch.zeros_like(look.inside).scatter(1, best, True) & known
        unclear = torch.zeros_like(lost)
    else:
        instead, unclear = torch.zeros_like(look.inside), torch.ones_like(lost)
    fallbacks = (lost & instead.any(dim=-1, keepdim=True)).sum()
    return replace(look, inside=look.inside | (instead & lost)), fallbacks, (lost & unclear).any()


def _risk(mass: torch.Tensor, reward: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """float32 [beams]: how unsafe the next token is likely to be."""
    mass = or_nothing(mass, allowed)
    # large tables: every new one costs the time to be given memory
    return (-STEEPNESS * reward).sigmoid_().mul_(mass).sum(-1) / mass.sum(-1).clamp_min(1e-30)


def _own_rewards(
    inherited: Sequence[float | None], reward: torch.Tensor, mass: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    known = upload([0.0 if value is None else value for value in inherited], torch.float32, reward.device)
    missing = [value is None for value in inherited]
    if not any(missing):
        return known
    mass = or_nothing(mass, real)
    mean = (mass * torch.where(real, reward, 0.0)).sum(-1) / mass.sum(-1).clamp_min(1e-30)
    return torch.where(upload(missing, torch.bool, reward.device), mean, known)


def _noise(look: Look, asked: Asked) -> torch.Tensor:
    """Gumbel noise for what is looked at, on the CPU; it does not depend on how that was found."""
    assert asked.generator is not None
    beams, vocabulary = asked.logprobs.shape
    uniform = torch.rand(beams, look.drawn or vocabulary, generator=asked.generator, dtype=torch.float64)
    if look.drawn is not None:
        uniform = uniform[:, : look.likely.shape[1]]
    elif look.tokens is not None:
        uniform = uniform.gather(1, look.tokens)
    return -torch.log(-torch.log(uniform.clamp_min(1e-300))).float()
