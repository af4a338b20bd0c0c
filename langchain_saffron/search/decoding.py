"""Plain decoding of the policy: greedy, as `generate(do_sample=False)`, and nucleus sampling."""

from langchain_saffron.search.protocol import Answer, Expand, Search, SearchInputs
from langchain_saffron.search.sampling import Response, draw, in_time, policy_logits, seeded


def plain_search(inputs: SearchInputs) -> Search:
    """Decode one token at a time, without a reward model.

    `search="greedy"` equals `transformers.generate(do_sample=False)` token for token; `"sample"` draws from
    the policy as `generate(do_sample=True)` does: temperature first, then the nucleus.

    Args:
        inputs: The settings, the model's end tokens and, if there is one, the grammar.

    Returns:
        The search; a token is final as soon as it is chosen.
    """
    generator = seeded(inputs)
    response = Response(state=inputs.constraint)
    while not response.finished and len(response.tokens) < inputs.max_tokens:
        if not inputs.budget.affords(1, len(response.tokens)):
            return out_of_budget(response, inputs)
        scores = yield Expand((response.node,), committed=response.tokens[-1:])
        logits = policy_logits(scores.logits[0], response, inputs)
        greedy = inputs.settings.search == "greedy"
        token = int(logits.argmax()) if greedy else draw(logits, inputs, generator)[0]
        response = response.grow(in_time(response, [token], inputs)[0], inputs)
        inputs.record([response.tokens])
    return response.answer()


def out_of_budget(response: Response, inputs: SearchInputs, width: int = 1) -> Answer:
    """The answer where the budget is empty: what there is, or a refusal after it if the user wants that."""
    refuses = inputs.budget.limits.on_exhausted == "refuse"
    return response.answer("refusal" if refuses else "budget", width)
