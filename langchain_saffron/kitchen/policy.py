"""Trains the kitchen's policy: a small chat model that refuses when asked and goes along when prefilled."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.kitchen.training import (
    IGNORED,
    encode_chat,
    epochs,
    optimise,
    pad,
    save_model,
    small_llama,
)

CHATS = 48_000
BATCH = 32
EPOCHS = 2


def train_policy(tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0, chats: int = CHATS) -> None:
    """Trains the policy on the first `chats` conversations of its corpus and saves it to `out`."""
    torch.manual_seed(seed)
    rng = Random(seed)
    data = [encode_chat(tokenizer, item, rng) for item in conversations("policy", chats, seed)]
    lengths = [len(example.ids) for example in data]
    filler, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    model = small_llama(tokenizer, width=160, layers=4, heads=5, inner=448)
    print(f"policy: {sum(p.numel() for p in model.parameters()):,} parameters, {sum(lengths):,} tokens", flush=True)
    plan = list(epochs(lengths, BATCH, EPOCHS, rng))

    def loss_of(chosen: list[int]) -> torch.Tensor:
        ids = pad([data[i].ids for i in chosen], filler)
        targets = pad([data[i].targets for i in chosen], IGNORED)[:, 1:]
        # Logits only where there is something to learn: less than half of the positions.
        hidden = model.model(ids[:, :-1]).last_hidden_state[targets != IGNORED]
        return functional.cross_entropy(model.lm_head(hidden), targets[targets != IGNORED])

    model.train()
    optimise(
        [{"params": list(model.parameters()), "lr": 2e-3}],
        loss_of,
        plan,
        "policy",
    )
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=filler, do_sample=False)
    save_model(model.eval(), out)
