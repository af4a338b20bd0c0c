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
    """Several texts in few rows, each row behind a system prompt that all of its texts see.

    Attributes:
        ids: int64 tensor [rows, tokens], padded.
        positions: int64 tensor [rows, tokens]: as if each text stood alone behind the prompt.
        mask: bool tensor [rows, tokens, tokens]: what each token sees.
        places: Of each text: its row, and where it begins there.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, prefix: Sequence[int], texts: Sequence[Text], width: int) -> Packed:
        """Pack texts into rows of at most `width` tokens behind the prompt, or as many as the longest text has."""
        width = max([width, *(len(text.ids) for text in texts)])
        rows: list[list[int]] = []
        free: list[int] = []
        # the longest first, each into the first row with room for it
        for index in sorted(range(len(texts)), key=lambda index: -len(texts[index].ids)):
            size = len(texts[index].ids)
            row = next((row for row, room in enumerate(free) if room >= size), len(rows))
            if row == len(rows):
                rows.append([])
                free.append(width)
            rows[row].append(index)
            free[row] -= size
        length = len(prefix) + width - min(free, default=0)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        positions = torch.zeros_like(ids)
        # padding belongs to nobody, but sees itself: a row of the mask that is empty would give NaN
        owners = torch.full_like(ids, -2)
        places = [(0, 0)] * len(texts)
        for row, members in enumerate(rows):
            at = len(prefix)
            ids[row, :at], positions[row, :at], owners[row, :at] = torch.tensor(prefix), torch.arange(at), -1
            for index in members:
                end = at + len(texts[index].ids)
                ids[row, at:end] = torch.tensor(texts[index].ids)
                positions[row, at:end] = torch.arange(len(prefix), len(prefix) + end - at)
                owners[row, at:end] = index
                places[index] = row, at
                at = end
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        mask = mask & ((owners[:, :, None] == owners[:, None]) | (owners[:, None] == -1))
        return cls(ids, positions, mask, tuple(places))


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
