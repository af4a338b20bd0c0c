"""Trains the kitchen's policy: a small chat model that refuses when asked and goes along when prefilled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import conversation
from langchain_saffron.kitchen.training import (
    IGNORED,
    encode_chat,
    epochs,
    optimise,
    pad,
    save_model,
    small_llama,
)

BATCH = 32


@dataclass(frozen=True)
class Phase:
    """A part of the training: which conversations, how often, and the highest learning rate."""

    first: int
    last: int
    times: int
    rate: float


# The second phase is for copying numbers and names, which goes on improving long after all else is learned.
PHASES = (Phase(0, 40_000, 2, 2e-3), Phase(40_000, 72_000, 1, 1e-3))
CHATS = PHASES[-1].last


def train_phase(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int
) -> LlamaForCausalLM:
    """Trains a model for one phase and returns it."""
    rng = Random(f"{seed}/{phase.first}")
    data = [
        encode_chat(tokenizer, conversation("policy", index, seed), rng) for index in range(phase.first, phase.last)
    ]
    plan = list(epochs([len(example.ids) for example in data], BATCH, phase.times, rng))

    def loss_of(chosen: list[int]) -> torch.Tensor:
        ids = pad([data[i].ids for i in chosen], tokenizer.pad_token_id)
        targets = pad([data[i].targets for i in chosen], IGNORED)[:, 1:]
        # Logits only where there is something to learn: less than half of the positions.
        hidden = model.model(ids[:, :-1]).last_hidden_state[targets != IGNORED]
        return functional.cross_entropy(model.lm_head(hidden), targets[targets != IGNORED])

    model.train()
    optimise([{"params": list(model.parameters()), "lr": phase.rate}], loss_of, plan, "policy")
    return model


def train_policy(tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0) -> None:
    """Trains the policy on its corpus and saves it to `out`."""
    torch.manual_seed(seed)
    model = small_llama(tokenizer, width=160, layers=4, heads=5, inner=448)
    print(f"policy: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    for phase in PHASES:
        model = train_phase(model, tokenizer, phase, seed)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    save_model(model.eval(), out)
