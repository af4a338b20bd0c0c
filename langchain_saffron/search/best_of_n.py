"""Best-of-N: sample whole answers from the policy and keep the one that the process reward model likes best."""

from langchain_saffron.search.decoding import out_of_budget
from langchain_saffron.search.portions import rewards_in_portions
from langchain_saffron.search.protocol import Expand, Search, SearchInputs
from langchain_saffron.search.sampling import Response, draw, in_time, nodes_of, policy_logits, safest, seeded


def best_of_n_search(inputs: SearchInputs) -> Search:
    """Draw `width` answers, score each once when it is finished, and give the best (SAFFRON paper, section 5.1).

    The samples grow side by side over one cache. Where that has no room for all of them, the later ones wait for the
    earlier ones. Where the budget covers fewer of them, fewer are drawn; the calls that score them are set aside from
    the start.

    Args:
        inputs: The settings (`width` is N), the end tokens, the budget.

    Returns:
        The search. Nothing is final before its end.
    """
    generator, budget = seeded(inputs), inputs.budget
    count = inputs.settings.width
    least = min(inputs.settings.width_floor or 1, count)
    while count > least and not budget.affords(1, 0, prm_calls=count):
        count -= 1
    samples = [Response(state=inputs.constraint)] * count
    while live := [one for one in samples if not one.finished and len(one.tokens) < inputs.max_tokens]:
        nodes, length = nodes_of(live), max(len(sample.tokens) for sample in live)
        if not budget.affords(len(nodes), length, prm_calls=count):
            if length == 0 or budget.limits.on_exhausted == "refuse":
                return out_of_budget(Response(state=inputs.constraint), inputs)
            break
        ended = tuple(sample.said(inputs) for sample in samples if sample.finished)
        scores = yield Expand(nodes, retain=ended, least=1)
        place = {node: i for i, node in enumerate(nodes[: len(scores.logits)])}
        samples = [
            sample
            if sample.finished or sample.node not in place
            else sample.grow(
                in_time(
                    sample,
                    draw(policy_logits(scores.logits[place[sample.node]], sample, inputs), inputs, generator),
                    inputs,
                )[0],
                inputs,
            )
            for sample in samples
        ]
        inputs.record([sample.tokens for sample in samples if not sample.finished])
    # of those that waited for room, the budget may have cut short what has hardly begun: too little to be compared
    longest = max(len(sample.tokens) for sample in samples)
    samples = [sample for sample in samples if sample.finished or len(sample.tokens) == longest]
    said = tuple(sample.said(inputs) for sample in samples)
    rewards = yield from rewards_in_portions(Expand((), retain=said, prm_nodes=said))
    best = safest(one.with_reward(reward) for one, reward in zip(samples, rewards, strict=True))
    cut = not best.finished and len(best.tokens) < inputs.max_tokens
    return best.answer("budget" if cut else None, count)
