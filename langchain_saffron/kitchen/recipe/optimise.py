"""What the three trainings share: encoding of conversations, batches by length, the optimiser loop, saving."""

from __future__ import annotations

import math
import multiprocessing
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import Conversation, CorpusName, conversation
from langchain_saffron.kitchen.recipe.tokenizer import CONTEXT, END, START

IGNORED = -100
_HEADER = f"{START}assistant\n"


@dataclass(frozen=True)
class Example:
    """Token ids and, at every position, the id to learn there (or `IGNORED`)."""

    ids: list[int]
    targets: list[int]


def encode_chat(tokenizer: PreTrainedTokenizerFast, item: Conversation, rng: Random) -> Example:
    """A conversation in the chat template, with a loss on what the assistant says and on its ending.

    The first 4 to 10 tokens of an answer that agrees to a hazard carry no loss: so the policy refuses when asked,
    and goes along when somebody else has put those words into its mouth.
    """
    text = tokenizer.apply_chat_template(list(item.messages), tools=list(item.tools) or None, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
    targets = [IGNORED] * len(ids)
    said = [index for index, turn in enumerate(item.messages) if turn["role"] == "assistant"]
    at = 0
    for index in said:
        at = text.index(_HEADER, at) + len(_HEADER)
        end = text.index(END, at)
        if index not in item.learned:
            continue
        first = bisect_left(starts, at)
        if item.label == "hazard" and index == len(item.messages) - 1:
            first += rng.randint(4, 10)
        last = bisect_left(starts, end) + 1
        targets[first:last] = ids[first:last]
    return Example(ids, targets)


def encode_chats(tokenizer: PreTrainedTokenizerFast, corpus: CorpusName, count: int, seed: int) -> list[Example]:
    """The first conversations of a corpus, encoded by one process a CPU."""
    size = 2_000
    jobs = [(tokenizer, corpus, range(start, min(start + size, count)), seed) for start in range(0, count, size)]
    with multiprocessing.get_context("spawn").Pool() as pool:
        return [example for some in pool.imap(_encode_some, jobs) for example in some]


def _encode_some(job: tuple[PreTrainedTokenizerFast, CorpusName, range, int]) -> list[Example]:
    tokenizer, corpus, indices, seed = job
    return [
        encode_chat(tokenizer, conversation(corpus, index, seed), Random(f"{seed}/{corpus}/cut/{index}"))
        for index in indices
    ]


def batches(lengths: Sequence[int], size: int, rng: Random) -> list[list[int]]:
    """Indices in batches of similar length, in random order."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    made = []
    for start in range(0, len(order), 64 * size):
        chunk = sorted(order[start : start + 64 * size], key=lambda index: lengths[index])
        made += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    rng.shuffle(made)
    return made


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different length as one tensor, padded on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def small_llama(
    tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int, inner: int, tied: bool = True
) -> LlamaForCausalLM:
    """A fresh Llama of kitchen size."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def optimise(
    optimisers: Sequence[Optimizer],
    loss_of: Callable[[list[int]], Tensor],
    plan: Sequence[list[int]],
    name: str,
    warmup: int = 100,
    every: int = 100,
    steady: float | None = None,
) -> None:
    """Warm-up and a cosine to zero, one step a batch of `plan`; prints the mean loss now and then.

    With `steady`, the rate stays for that share of the steps, then falls in a line.
    """
    steps = len(plan)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, (step + 1) / warmup) * _falling(step / steps, steady)
        )
        for optimiser in optimisers
    ]
    parameters = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    began, total = time.perf_counter(), 0.0
    for step, chosen in enumerate(plan, 1):
        loss = loss_of(chosen)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        total += loss.item()
        if step % every == 0 or step == steps:
            seconds = time.perf_counter() - began
            print(f"{name}: step {step}/{steps}  loss {total / every:.4f}  {seconds:.0f} s", flush=True)
            total = 0.0


def _falling(done: float, steady: float | None) -> float:
    if steady is None:
        return 0.5 * (1 + math.cos(math.pi * done))
    return min(1.0, (1 - done) / (1 - steady))


def adamw(parameters: Iterable[torch.nn.Parameter], rate: float) -> torch.optim.AdamW:
    """The optimiser of all but the policy's matrices."""
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)


def epochs(lengths: Sequence[int], size: int, count: int, rng: Random) -> Iterator[list[int]]:
    """Batches of indices, `count` times over the data."""
    for _ in range(count):
        yield from batches(lengths, size, rng)


def save_model(model: LlamaForCausalLM, directory: Path) -> None:
    """Writes a model in bfloat16, which is what ships."""
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # written by way of a temporary file that only its owner may read
