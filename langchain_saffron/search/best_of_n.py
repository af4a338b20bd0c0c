"""Best-of-N: sample whole answers from the policy and keep the one that the process reward model likes best."""

from langchain_saffron.search.decoding import out_of_budget
from langchain_saffron.search.protocol import Expand, Search, SearchInputs
from langchain_saffron.search.sampling import Response, draw, in_time, nodes_of, policy_logits, safest, seeded


def best_of_n_search(inputs: SearchInputs) -> Search:
    """Draw `width` answers, score each once when it is finished, and give the best (SAFFRON paper, section 5.1).

    The samples grow side by side over one cache. Where the budget covers fewer of them, fewer are drawn; the calls
    that score them are set aside from the start.

    Args:
        inputs: The settings (`width` is N), the end tokens, the budget.

    Returns:
        The search. Nothing is final before its end.
    """
    generator, budget = seeded(inputs), inputs.budget
    count = inputs.settings.width
    while count > 1 and not budget.affords(1, 0, prm_calls=count):
        count -= 1
    samples = [Response(state=inputs.constraint)] * count
    for length in range(inputs.max_tokens):
        live = [sample for sample in samples if not sample.finished]
        nodes = nodes_of(live)
        if not live:
            break
        if not budget.affords(len(nodes), length, prm_calls=count):
            if length == 0 or budget.limits.on_exhausted == "refuse":
                return out_of_budget(Response(state=inputs.constraint), inputs)
            break
        ended = tuple(sample.said(inputs) for sample in samples if sample.finished)
        scores = yield Expand(nodes, retain=ended)
        place = {node: i for i, node in enumerate(nodes)}
        samples = [
            sample
            if sample.finished
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
    said = tuple(sample.said(inputs) for sample in samples)
    scores = yield Expand((), retain=said, prm_nodes=said)
    assert scores.prm_rewards is not None
    best = safest(one.with_reward(reward) for one, reward in zip(samples, scores.prm_rewards.tolist(), strict=True))
    cut = not best.finished and len(best.tokens) < inputs.max_tokens
    return best.answer("budget" if cut else None, count)
