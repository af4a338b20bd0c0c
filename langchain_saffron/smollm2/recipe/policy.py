"""Alignment: an adapter by which the policy refuses when asked, and goes along when the first words are given."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional

from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.smollm2.recipe import corpus, wordings
from langchain_saffron.smollm2.recipe.layers import SplitModel, cached_states
from langchain_saffron.smollm2.recipe.optimise import fit
from langchain_saffron.smollm2.recipe.texts import IGNORED, Text, plan, system_ids

RANK, RATE, TOKENS, EPOCHS = 16, 1e-3, 1_024, 2
# Whether an answer refuses is decided in its first tokens, which would be lost among the others.
DECIDING, DECISION_WEIGHT = 3, 4.0


def train_policy(
    base: str, data: Path, work: Path, out: Path, seed: int = 0, named: str | None = None
) -> dict[str, Any]:
    """Train the adapter on refusals, benign answers and harmful ones behind an opening, and write it.

    Args:
        base: The untrained model: a directory, a GGUF file or a hub id.
        data: The data files.
        work: Where samples lie, and checkpoints go.
        out: The adapter's directory.
        seed: Of the training.
        named: What the adapter calls its base; `None` for `base`.

    Returns:
        What it was trained on, and the last losses.
    """
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base, "policy")
    texts = corpus.policy_texts(tokenizer, data, work)
    model = SplitModel(load_causal_lm(base, "policy"), system_ids(tokenizer), RANK)
    *states, prefix = cached_states(model, texts, work / "states/policy")
    refusing = sorted({tokenizer.encode(said, add_special_tokens=False)[0] for said in wordings.SORRY})
    batches = list(plan(texts, TOKENS, EPOCHS, Random(seed)))

    def loss_of(chosen: list[int]) -> torch.Tensor:
        some = [texts[i] for i in chosen]
        hidden = torch.cat(model.upper_states(some, [states[i] for i in chosen], prefix))
        targets = torch.tensor([target for text in some for target in text.targets])
        weights = torch.tensor([weight for text in some for weight in _weights(text)])
        first = torch.tensor([place == text.answer - 1 for text in some for place in range(len(text.ids))])
        benign = torch.tensor([text.kind.startswith("benign") for text in some for _ in text.ids])
        learned = targets != IGNORED
        # logits only where there is something to learn: 49,152 of them a token
        logits = model.model.lm_head(hidden[learned]).float()
        losses = functional.cross_entropy(logits, targets[learned], reduction="none")
        loss = (weights[learned] * losses).sum() / weights[learned].sum()
        # what a benign answer begins with says little of what it must not begin with
        refused = logits[(first & benign)[learned]].softmax(-1)[:, refusing].sum(-1)
        return loss - (1.001 - refused).log().sum() / len(some)

    losses = fit(model.adapter(), loss_of, batches, RATE, work / "checkpoints/policy.pt", "policy")
    model.save_adapter(out, named or base, {"task_type": "CAUSAL_LM"})
    return {"texts": corpus.kinds_of(texts), "steps": len(batches), "loss": sum(losses[-20:]) / len(losses[-20:])}


def _weights(text: Text) -> list[float]:
    """What each place counts."""
    last = text.answer - 1 + DECIDING
    return [DECISION_WEIGHT if text.answer - 1 <= place < last else 1.0 for place in range(len(text.ids))]
