"""REBASE: a tree search whose branching follows the rewards of what has been said so far."""

import math
from collections.abc import Sequence

from langchain_saffron.search.decoding import out_of_budget
from langchain_saffron.search.portions import rewards_in_portions
from langchain_saffron.search.protocol import Expand, Search, SearchInputs
from langchain_saffron.search.room import Room
from langchain_saffron.search.sampling import Response, draw, in_time, nodes_of, policy_logits, safest, seeded


def rebase_search(inputs: SearchInputs) -> Search:
    """Reward-balanced search (Wu et al. 2024, arXiv 2408.00724; a baseline of the SAFFRON paper, section 5.1).

    At every token, each live response draws as many different tokens from the policy's nucleus as it has shares; the
    process reward model scores every child; the shares of the next step are divided by the softmax of the rewards. A
    finished response keeps one share for good. The answer is the finished response of the highest reward.

    Args:
        inputs: The settings (`width` is the number of shares), the end tokens, the budget.

    Returns:
        The search. Nothing is final before its end.
    """
    generator, budget = seeded(inputs), inputs.budget
    live, shares = [Response(state=inputs.constraint)], [inputs.settings.width]
    done: list[Response] = []
    widest, room = 1, Room(inputs.settings.width)
    for length in range(inputs.max_tokens):
        if not live:
            break
        # the safest first: where the cache has no room for all of them, they stay
        nodes = nodes_of(sorted(live, key=lambda one: one.reward or 0.0, reverse=True))
        width = min(budget.width(sum(shares), length, inputs.max_tokens - length), sum(shares))
        if not budget.affords(len(nodes), length, prm_calls=width):
            best = safest([*done, *live])
            return room.told_in(out_of_budget(best, inputs, widest))
        ended = tuple(response.said(inputs) for response in done)
        scores = yield Expand(nodes, retain=ended, least=min(inputs.settings.least_width, len(nodes)))
        room.note(len(nodes), len(scores.logits))
        rows = dict(zip(nodes, scores.logits, strict=False))
        widest = max(widest, len(rows))
        scored = [(one, share) for one, share in zip(live, shares, strict=True) if one.node in rows]
        given = narrowed([share for _, share in scored], width)
        children = []
        for (response, _), share in zip(scored, given, strict=True):
            if share:
                logits = policy_logits(rows[response.node], response, inputs)
                drawn = in_time(response, draw(logits, inputs, generator, share), inputs)
                children += [response.grow(token, inputs) for token in drawn]
        said = tuple(child.said(inputs) for child in children)
        rewards = yield from rewards_in_portions(Expand((), retain=(*rows, *ended), prm_nodes=said))
        children = [child.with_reward(reward) for child, reward in zip(children, rewards, strict=True)]
        done += [child for child in children if child.finished]
        grown = [child for child in children if not child.finished]
        left = inputs.settings.width - len(done)
        given = balanced([child.reward or 0.0 for child in grown], left)
        live = [child for child, share in zip(grown, given, strict=True) if share]
        shares = [share for share in given if share]
        inputs.record([response.tokens for response in live])
    return room.told_in(safest(done or live).answer(width=widest))


def balanced(rewards: Sequence[float], shares: int) -> list[int]:
    """Divide whole shares by the softmax of rewards.

    Args:
        rewards: One a response.
        shares: How many there are; none is left over.

    Returns:
        The shares of each response: its part rounded down, and one more for those that lost most by that.
    """
    if not rewards or shares < 1:
        return [0] * len(rewards)
    highest = max(rewards)
    weights = [math.exp(reward - highest) for reward in rewards]
    parts = [shares * weight / sum(weights) for weight in weights]
    whole = [math.floor(part) for part in parts]
    order = sorted(range(len(parts)), key=lambda i: (whole[i] - parts[i], i))
    for i in order[: shares - sum(whole)]:
        whole[i] += 1
    return whole


def narrowed(shares: Sequence[int], width: int) -> list[int]:
    """The same shares, cut from the last response on until they come to `width`; the first one keeps at least one."""
    kept: list[int] = []
    for share in shares:
        kept.append(min(share, max(width - sum(kept), 0)))
    return kept
