"""At which tokens of each beam a selection looks: the whole vocabulary is many times as long as a nucleus."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from langchain_saffron.search.branchless import or_never
from langchain_saffron.search.nucleus import CHUNK, likeliest, nucleus
from langchain_saffron.search.ragged import Ragged

# of so few beams the likeliest tokens are found as fast by sorting them out of all
FEW = 4
# up to this share of the vocabulary a CPU takes the tokens out that are looked at
MOST_TAKEN = 1 / 8
# tokens that have this share of what a nucleus leaves out are looked at first
FIRST_SHARE = 2**-10
# more than the rounding of float32 sums
MARGIN = 1e-5
# for how many of a beam's likeliest tokens noise is drawn, by how many are in the nucleus
DRAWN = (64, CHUNK)


@dataclass(frozen=True, slots=True)
class Look:
    """Some tokens of each beam, among them its nucleus.

    Attributes:
        likely: float32 [beams, columns]: their log-probabilities, most likely first where they are `drawn`.
        tokens: int64 [beams, columns]; `None` for the whole vocabulary.
        inside: bool [beams, columns]: the nucleus.
        mass: float32 [beams, columns]: their probabilities.
        again: bool scalar: whether a nucleus may be wider than that; `None` if none is.
        drawn: For how many columns a beam noise is drawn; `None` to draw it for the whole vocabulary.
    """

    likely: torch.Tensor
    tokens: torch.Tensor | None
    inside: torch.Tensor
    mass: torch.Tensor
    again: torch.Tensor | None = None
    drawn: int | None = None

    def beside(self, beams: torch.Tensor, tokens: torch.Tensor, likely: torch.Tensor) -> "Look":
        """The same with another token for some of the beams, as if it were in their nuclei; on the CPU.

        Args:
            beams: int64 [some].
            tokens: int64 [some].
            likely: float32 [some]: their log-probabilities.
        """
        if self.tokens is None:
            return replace(self, inside=self.inside.index_put((beams, tokens), torch.ones((), dtype=torch.bool)))
        more = self.likely.new_full((len(self.likely), 1), -torch.inf)
        token = torch.zeros_like(more, dtype=torch.long)
        more[beams, 0], token[beams, 0] = likely, tokens
        return Look(
            torch.cat([self.likely, more], dim=1),
            torch.cat([self.tokens, token], dim=1),
            torch.cat([self.inside, more > -torch.inf], dim=1),
            torch.cat([self.mass, more.exp()], dim=1),
        )


def looks(logprobs: torch.Tensor, top_p: float) -> Iterator[Look]:
    """One after the other until that is enough.

    Args:
        logprobs: float32 [beams, vocabulary], normalised, but for beams that nothing continues.
        top_p: In (0, 1].
    """
    if top_p >= 1 or logprobs.shape[1] <= CHUNK:
        yield _whole(logprobs, top_p)
    elif logprobs.device.type == "cpu":
        near = _likeliest(logprobs, top_p, DRAWN[0]) if len(logprobs) <= FEW else None
        yield _of_nucleus(logprobs, top_p) if near is None or bool(near.again) else near
        yield _whole(logprobs, top_p)
    else:
        yield _likeliest(logprobs, top_p, CHUNK)
        yield _whole(logprobs, top_p)


def _likeliest(logprobs: torch.Tensor, top_p: float, count: int) -> Look:
    """A look at so many tokens of each beam."""
    likely, tokens, inside, again = likeliest(logprobs, top_p, count)
    return Look(likely, tokens, inside, likely.exp(), again, count)


def _whole(logprobs: torch.Tensor, top_p: float) -> Look:
    """A look at the whole vocabulary."""
    mass = logprobs.exp()
    return Look(logprobs, None, nucleus(logprobs, top_p, mass), mass)


def _of_nucleus(logprobs: torch.Tensor, top_p: float) -> Look:
    """A look at the tokens of each nucleus alone, on the CPU; at the whole vocabulary where those are many."""
    most = max(int(logprobs.shape[1] * MOST_TAKEN), CHUNK)
    some = _around_nucleus(logprobs, top_p, most)
    if some is None:
        whole = _whole(logprobs, top_p)
        some = Ragged.of(whole.inside.numpy(), most)
        if some is None:
            return whole
    likely, tokens = some.take(logprobs, -torch.inf), some.places
    columns = likely.shape[1]
    if columns > CHUNK:
        inside = nucleus(likely, top_p)
        columns = int(inside.sum(-1).max())
        if columns >= CHUNK:
            return Look(likely, tokens, inside, likely.exp())
        likely = or_never(likely, inside)
    likely, order, inside, _ = likeliest(likely, top_p, max(columns, 1))
    columns = max(int(inside.sum(-1).max()), 1)
    likely, tokens, inside = likely[:, :columns], tokens.gather(1, order)[:, :columns], inside[:, :columns]
    return Look(likely, tokens, inside, likely.exp(), drawn=next((count for count in DRAWN if columns < count), None))


def _around_nucleus(logprobs: torch.Tensor, top_p: float, most: int) -> Ragged | None:
    """Some tokens of each beam, at most so many, among them its nucleus; `None` where there are more.

    Of all tokens, each of which has less than its share of what a nucleus leaves out, none is in it. Most have so much
    less that a greater share leaves but a few: those are enough if they hold the mass of a nucleus.
    """
    vocabulary = logprobs.shape[1]
    for share in (FIRST_SHARE, 1 / vocabulary):
        some = Ragged.of(logprobs.numpy() > math.log((1 - top_p) * share) - MARGIN, most)
        if some is None:
            return None
        # what nothing continues has no token that has its share of everything
        nothing = some.empty.all(dim=-1) & (share == 1 / vocabulary)
        if bool((nothing | (some.take(logprobs, -torch.inf).exp().sum(-1) > top_p + MARGIN)).all()):
            return some
    return None
