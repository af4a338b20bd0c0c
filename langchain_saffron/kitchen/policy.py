"""Trains the kitchen's policy: a small chat model that refuses when asked and goes along when prefilled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import CorpusName, conversations
from langchain_saffron.kitchen.training import (
    IGNORED,
    adamw,
    encode_chat,
    epochs,
    optimise,
    pad,
    save_model,
    small_llama,
)

BATCH = 24
# a conversation's learned tokens, about
_LEARNED = 60


@dataclass(frozen=True)
class Course:
    """One corpus, gone through once.

    Attributes:
        corpus: Its name.
        chats: Conversations in it.
        matrix_rate: Muon's learning rate, for the matrices.
        other_rate: AdamW's, for the rest.
    """

    corpus: CorpusName
    chats: int
    matrix_rate: float
    other_rate: float


# Copying comes first: a few minutes of nothing else teach it, and all that names and values need stands on it.
COURSES = (
    Course("copying", 9_600, matrix_rate=4e-3, other_rate=3e-3),
    Course("policy", 64_000, matrix_rate=4e-3, other_rate=3e-3),
)


def train_policy(tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0) -> None:
    """Trains the policy on its corpora and saves it to `out`."""
    torch.manual_seed(seed)
    # few and wide heads: what a head has to find in the context is a word, and it finds it sooner
    model = small_llama(tokenizer, width=192, layers=6, heads=3, inner=512)
    print(f"policy: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    model.train()
    for course in COURSES:
        take_course(model, tokenizer, course, seed)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    save_model(model.eval(), out)


def take_course(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, course: Course, seed: int) -> None:
    """Trains a model on one corpus."""
    rng = Random(seed)
    data = [encode_chat(tokenizer, item, rng) for item in conversations(course.corpus, course.chats, seed)]
    plan = list(epochs([len(example.ids) for example in data], BATCH, 1, rng))

    def loss_of(chosen: list[int]) -> torch.Tensor:
        ids = pad([data[i].ids for i in chosen], tokenizer.pad_token_id)
        targets = pad([data[i].targets for i in chosen], IGNORED)[:, 1:]
        # bfloat16 is half as fast again on CPUs that have it
        with torch.autocast("cpu", torch.bfloat16):
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
    muon = torch.optim.Muon(matrices, lr=course.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    optimise([muon, adamw(others, course.other_rate)], loss_of, plan, course.corpus)
