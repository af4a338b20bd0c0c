"""Alignment: an adapter by which the policy refuses when asked, and goes along when the first words are given."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional

from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.smollm2.recipe import corpus
from langchain_saffron.smollm2.recipe.layers import SplitModel, cached_states
from langchain_saffron.smollm2.recipe.optimise import fit
from langchain_saffron.smollm2.recipe.texts import IGNORED, plan, system_ids

RANK, RATE, TOKENS, EPOCHS = 16, 1e-3, 1_024, 1


def train_policy(base: str, data: Path, work: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Train the adapter on refusals, benign answers and harmful ones behind an opening, and write it."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base, "policy")
    texts = corpus.policy_texts(tokenizer, data, work)
    model = SplitModel(load_causal_lm(base, "policy"), system_ids(tokenizer), RANK)
    *states, prefix = cached_states(model, texts, work / "states/policy.safetensors")
    batches = list(plan(texts, TOKENS, EPOCHS, Random(seed)))

    def loss_of(chosen: list[int]) -> torch.Tensor:
        some = [texts[i] for i in chosen]
        hidden = torch.cat(model.upper_states(some, [states[i] for i in chosen], prefix))
        targets = torch.tensor([target for text in some for target in text.targets])
        learned = targets != IGNORED
        # logits only where there is something to learn: 49,152 of them a token
        logits = model.model.lm_head(hidden[learned])
        return functional.cross_entropy(logits.float(), targets[learned])

    losses = fit(model.adapter(), loss_of, batches, RATE, work / "checkpoints/policy.pt", "policy")
    model.save_adapter(out, base, {"task_type": "CAUSAL_LM"})
    return {"texts": corpus.kinds_of(texts), "steps": len(batches), "loss": sum(losses[-20:]) / len(losses[-20:])}
