"""Trains the kitchen's policy: a small chat model that refuses when asked and goes along when prefilled."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import CorpusName, conversations
from langchain_saffron.kitchen.training import (
    IGNORED,
    Example,
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
# Copying comes first: a few minutes of nothing else teach it, and all that names and values need stands on it. Both
# share a schedule: the rates rise once, stay, and fall in the end.
COURSES: dict[CorpusName, int] = {"copying": 21_600, "policy": 48_000}
MATRIX_RATE, OTHER_RATE = 4e-3, 3e-3
# then, at falling rates, what is left half learned
REVISION: dict[CorpusName, int] = {"revision": 8_400}
REVISION_MATRIX_RATE, REVISION_OTHER_RATE = 3e-3, 1.5e-3


def train_policy(tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0) -> None:
    """Trains the policy on its corpora and saves it to `out`."""
    torch.manual_seed(seed)
    # few and wide heads: what a head has to find in the context is a word, and it finds it sooner
    model = small_llama(tokenizer, width=192, layers=6, heads=3, inner=512)
    print(f"policy: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    model.train()
    study(model, tokenizer, COURSES, MATRIX_RATE, OTHER_RATE, seed, steady=0.6)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    study(model, tokenizer, REVISION, REVISION_MATRIX_RATE, REVISION_OTHER_RATE, seed, steady=0.4)
    # half way back: what the revision taught, without what it made the model forget (WiSE-FT, arXiv 2109.01903)
    with torch.no_grad():
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.lerp_(old, 0.5)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    save_model(model.eval(), out)


def study(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    courses: dict[CorpusName, int],
    matrix_rate: float,
    other_rate: float,
    seed: int,
    steady: float,
) -> None:
    """Train a model on corpora, one after the other in one schedule.

    Args:
        model: The policy, in training mode.
        tokenizer: Its tokenizer.
        courses: Conversations to take from each corpus.
        matrix_rate: Muon's learning rate, for the matrices.
        other_rate: AdamW's, for the rest.
        seed: Of the data and their order.
        steady: For what share of the steps the rates stay.
    """
    rng = Random(seed)
    data: list[Example] = []
    plan: list[list[int]] = []
    for corpus, count in courses.items():
        first = len(data)
        data += [encode_chat(tokenizer, item, rng) for item in conversations(corpus, count, seed)]
        lengths = [len(example.ids) for example in data[first:]]
        plan += [[first + index for index in batch] for batch in epochs(lengths, BATCH, 1, rng)]

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
    muon = torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    optimise([muon, adamw(others, other_rate)], loss_of, plan, "policy", steady=steady)
