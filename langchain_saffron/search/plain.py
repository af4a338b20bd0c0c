"""Plain decoding of the policy: greedy, as `generate(do_sample=False)`, and nucleus sampling."""

import torch

from langchain_saffron.devices import upload
from langchain_saffron.search.base import ROOT, Answer, Expand, FinishReason, Search, SearchInputs
from langchain_saffron.search.constraint import constrain, permitted


def plain_search(inputs: SearchInputs) -> Search:
    """Decode one token at a time, without a reward model.

    `search="greedy"` equals `transformers.generate(do_sample=False)` token for token; `"sample"` draws from
    the policy as `generate(do_sample=True)` does: temperature first, then the nucleus.

    Args:
        inputs: The settings, the model's end tokens and, if there is one, the grammar.

    Returns:
        The search; a token is final as soon as it is chosen.
    """
    settings = inputs.settings
    generator = torch.Generator()
    if settings.search == "sample" and settings.seed is None:
        generator.seed()
    else:
        generator.manual_seed(settings.seed or 0)
    node, state = ROOT, inputs.constraint
    tokens: list[int] = []
    fresh: tuple[int, ...] = ()
    reason: FinishReason = "length"
    while True:
        if not inputs.purse.affords(1, node.length):
            reason = "refusal" if inputs.purse.budget.on_exhausted == "refuse" else "budget"
            break
        scores = yield Expand((node,), committed=fresh)
        logits = scores.logits[0].clone()
        _penalise(logits, inputs, tokens)
        may_end = len(tokens) >= settings.min_tokens
        if state is not None:
            mask = permitted([state], inputs.end_tokens, may_end)
            logits = constrain(logits[None], upload(mask, torch.bool, logits.device))[0]
        elif not may_end:
            logits[list(inputs.end_tokens)] = -torch.inf
        if settings.search == "greedy":
            token = int(logits.argmax())
        else:
            token = _draw(logits, settings.temperature or 1.0, settings.top_p, generator)
        node = node.child(token)
        tokens.append(token)
        fresh = (token,)
        inputs.record([tokens])
        if token in inputs.end_tokens:
            reason = "stop"
            break
        state = state and state.advance(token)
        if (state is not None and state.done) or inputs.stops(tokens):
            reason = "stop"
            break
        if len(tokens) >= inputs.max_tokens:
            break
    out_of_budget = reason in ("budget", "refusal")
    complete = state is None or (state.accepting and reason != "refusal")
    return Answer(tuple(tokens), reason, node=node, budget_exhausted=out_of_budget, complete=complete)


def _penalise(logits: torch.Tensor, inputs: SearchInputs, tokens: list[int]) -> None:
    """The repetition penalty of transformers, over prompt and response."""
    if inputs.repetition_penalty == 1.0:
        return
    ids = torch.tensor(sorted({*inputs.prompt, *tokens}), device=logits.device)
    old = logits[ids]
    logits[ids] = torch.where(old < 0, old * inputs.repetition_penalty, old / inputs.repetition_penalty)


def _draw(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token from the nucleus of the tempered distribution."""
    probabilities, order = torch.softmax(logits / temperature, dim=-1).sort(descending=True)
    above = probabilities.cumsum(-1) - probabilities
    kept = torch.where(above < top_p, probabilities, 0.0) if top_p < 1 else probabilities
    return int(order[torch.multinomial(kept.cpu(), 1, generator=generator)])
