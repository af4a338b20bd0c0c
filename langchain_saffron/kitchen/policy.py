"""Trains the kitchen's policies: small chat models that refuse when asked and go along when prefilled."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.devices import computes_bfloat16
from langchain_saffron.kitchen.generator import CorpusName
from langchain_saffron.kitchen.training import (
    IGNORED,
    Example,
    adamw,
    encode_chats,
    epochs,
    optimise,
    pad,
    save_model,
    small_llama,
)

BATCH = 64
# a conversation's learned tokens, about
_LEARNED = 60
# Copying comes first: nothing else teaches it so soon, and all that names and values need stands on it. Both share a
# schedule: the rates rise once, stay, and fall in the end.
COURSES: dict[CorpusName, int] = {"copying": 57_600, "policy": 224_000}
MATRIX_RATE, OTHER_RATE = 4e-3, 3e-3
# from the kitchen's policy to the hard kitchen's
HARD_COURSES: dict[CorpusName, int] = {"hard": 32_000}
HARD_MATRIX_RATE, HARD_OTHER_RATE = 3e-3, 2e-3


def train_policy(
    tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0, device: torch.device | str = "cpu"
) -> None:
    """Trains the policy on its corpora and saves it to `out`."""
    torch.manual_seed(seed)
    # few and wide heads: what a head has to find in the context is a word, and it finds it sooner
    model = small_llama(tokenizer, width=192, layers=6, heads=3, inner=512).to(device)
    print(f"policy: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    _study(model, tokenizer, COURSES, MATRIX_RATE, OTHER_RATE, seed)
    _save(model, tokenizer, out)


def train_hard_policy(
    policy: Path, tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0, device: torch.device | str = "cpu"
) -> None:
    """Trains the policy on to the hard kitchen's, in which only some utensils let a bad answer turn back."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(policy, dtype=torch.float32).to(device)
    _study(model, tokenizer, HARD_COURSES, HARD_MATRIX_RATE, HARD_OTHER_RATE, seed)
    _save(model, tokenizer, out)


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    save_model(model.eval(), out)


def _study(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    courses: dict[CorpusName, int],
    matrix_rate: float,
    other_rate: float,
    seed: int,
) -> None:
    """Trains on so many conversations of each corpus, one after the other in one schedule.

    `matrix_rate` is Muon's learning rate, for the matrices; `other_rate` AdamW's, for the rest.
    """
    rng = Random(seed)
    data: list[Example] = []
    plan: list[list[int]] = []
    for corpus, count in courses.items():
        first = len(data)
        data += encode_chats(tokenizer, corpus, count, seed)
        lengths = [len(example.ids) for example in data[first:]]
        plan += [[first + index for index in batch] for batch in epochs(lengths, BATCH, 1, rng)]

    def loss_of(chosen: list[int]) -> torch.Tensor:
        ids = pad([data[i].ids for i in chosen], tokenizer.pad_token_id).to(model.device)
        targets = pad([data[i].targets for i in chosen], IGNORED)[:, 1:].to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=computes_bfloat16(model.device)):
            # Logits only where there is something to learn: a third of the positions.
            hidden = model.model(ids[:, :-1]).last_hidden_state[targets != IGNORED]
            logits = model.lm_head(hidden)
        # Every token weighs the same, in whatever batch: batches are sorted by length, and a mean over each would
        # make little of what long conversations teach, such as copying.
        total = functional.cross_entropy(logits.float(), targets[targets != IGNORED], reduction="sum")
        return total / (len(chosen) * _LEARNED)

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    # copying takes half the steps with Muon that it takes with AdamW
    muon = torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    model.train()
    optimise([muon, adamw(others, other_rate)], loss_of, plan, "policy", steady=0.6)
