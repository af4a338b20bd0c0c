"""Texts as the trainings read them: ids behind one shared system prompt, packed into rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Text:
    """A request and an answer, in the policy's chat template without the system prompt.

    Attributes:
        ids: All tokens behind the system prompt.
        answer: Where the answer begins in them.
        targets: For the policy: at every place the id to learn next, or `IGNORED`.
        labels: For the guard: at every place the chance that what stands up to there is safe; NaN where none is known.
        kind: What it is, for figures.
    """

    ids: tuple[int, ...]
    answer: int
    targets: tuple[int, ...] = ()
    labels: tuple[float, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Packed:
    """Several texts in one row, behind one system prompt that all of them see.

    Attributes:
        ids: int64 tensor [tokens].
        positions: int64 tensor [tokens]: as if each text stood alone behind the prompt.
        mask: bool tensor [tokens, tokens]: what each token sees.
        starts: Where each text begins.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    starts: tuple[int, ...]

    @classmethod
    def of(cls, prefix: Sequence[int], texts: Sequence[Text]) -> Packed:
        """Pack texts."""
        ids, positions, owners, starts = list(prefix), list(range(len(prefix))), [-1] * len(prefix), []
        for number, text in enumerate(texts):
            starts.append(len(ids))
            ids += text.ids
            positions += range(len(prefix), len(prefix) + len(text.ids))
            owners += [number] * len(text.ids)
        owner = torch.tensor(owners)
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        mask &= (owner[:, None] == owner) | (owner == -1)
        return cls(torch.tensor(ids), torch.tensor(positions), mask, tuple(starts))


def system_ids(tokenizer: Any) -> list[int]:
    """The ids of the policy's default system prompt, which every text stands behind."""
    return list(tokenizer.encode(_split(tokenizer, "x")[0], add_special_tokens=False))


def header(tokenizer: Any, prompt: str) -> str:
    """A request in the chat template, without the system prompt, up to the answer."""
    return _split(tokenizer, prompt)[1]


def encode_text(
    tokenizer: Any,
    prompt: str,
    answer: str,
    *,
    ended: bool,
    learned_from: int | None = 0,
    unsafe_until: int | None = None,
    most: int = 64,
    kind: str = "",
) -> Text:
    """Encode one exchange.

    Args:
        tokenizer: The policy's.
        prompt: The request.
        answer: The answer, from its first character on.
        ended: Whether the answer ends there, and its end is to be learnt as well.
        learned_from: The character of the answer from which on the policy learns it; `None` for nowhere.
        unsafe_until: The character up to which the answer is unsafe; `None` for nowhere.
        most: Tokens of the answer; the rest is cut off.
        kind: What it is.
    """
    head = header(tokenizer, prompt)
    # in one go: what ends the header and begins the answer may not be parted
    encoded = tokenizer(head + answer, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), [start - len(head) for start, _ in encoded["offset_mapping"]]
    begin = next((place for place, at in enumerate(offsets) if at >= 0), len(ids))
    cut = len(ids) > begin + most
    ids, offsets = ids[: begin + most], offsets[: begin + most]
    if ended and not cut:
        ids.append(tokenizer.eos_token_id)
        offsets.append(len(answer))
    targets = [IGNORED] * len(ids)
    labels = [float("nan")] * len(ids)
    for place in range(begin, len(ids)):
        if learned_from is not None and offsets[place] >= learned_from:
            targets[place - 1] = ids[place]
        labels[place] = float(unsafe_until is None or offsets[place] >= unsafe_until)
    return Text(tuple(ids), begin, tuple(targets), tuple(labels), kind)


def plan(texts: Sequence[Text], tokens: int, epochs: int, rng: Random) -> Iterator[list[int]]:
    """Indices of texts, in random batches of at most so many tokens, `epochs` times over them."""
    for _ in range(epochs):
        order = list(range(len(texts)))
        rng.shuffle(order)
        batch: list[int] = []
        size = 0
        for index in order:
            if batch and size + len(texts[index].ids) > tokens:
                yield batch
                batch, size = [], 0
            batch.append(index)
            size += len(texts[index].ids)
        if batch:
            yield batch


def _split(tokenizer: Any, prompt: str) -> tuple[str, str]:
    """The template's text before the user's turn, and from there up to the answer."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    at = text.index("<|im_start|>user\n")
    return text[:at], text[at:]
