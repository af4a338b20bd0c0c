"""Annotated data as training input: our shards, or any table of token ids and token-level rewards."""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langchain_saffron.errors import CorpusError
from langchain_saffron.models.vocabulary import vocabulary_hash
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.annotated_rows import SHAPE, read_shards, read_table
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.shards import read_manifest


@dataclass(frozen=True)
class RewardData:
    """Training data.

    Attributes:
        samples: All conversations.
        manifest: What `saffron annotate` recorded; empty for data of another origin.
    """

    samples: list[Sample]
    manifest: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> "RewardData":
        """Read a directory of shards, or a file or directory of rows in the form of Safety4M.

        Raises:
            CorpusError: It is not there, incomplete, empty or of no known shape.
        """
        path = Path(os.path.expanduser(path))
        manifest = read_manifest(path) if path.is_dir() else None
        rows = read_table(path) if manifest is None else read_shards(path, manifest)
        samples = [sample for sample in rows if sample.known.any()]
        if not samples:
            raise CorpusError(f"{path} holds no rewards: {SHAPE}")
        return cls(samples, manifest or {})

    @property
    def rewards(self) -> int:
        """How many rewards of what was said there are."""
        return sum(int(sample.known.sum()) for sample in self.samples)

    @property
    def candidates(self) -> int:
        """How many rewards of candidates there are."""
        return sum(len(sample.targets()[0]) for sample in self.samples) - self.rewards

    @property
    def template(self) -> RewardTemplate | None:
        """How its prompts were written, if that was recorded."""
        recorded = self.manifest.get("settings", {}).get("template")
        return RewardTemplate(**recorded) if recorded else None

    @property
    def prm(self) -> dict[str, Any]:
        """What was recorded of the process reward model."""
        recorded: dict[str, Any] = self.manifest.get("settings", {}).get("prm") or {}
        return recorded

    def check_tokenizer(self, tokenizer: Any, rows: int) -> None:
        """Refuse data whose ids mean something else to the base model.

        Args:
            tokenizer: The base's.
            rows: Rows of its embedding.

        Raises:
            CorpusError: The data were made with another tokenizer.
        """
        recorded = self.manifest.get("settings", {}).get("vocabulary_hash")
        if recorded is not None and recorded != vocabulary_hash(tokenizer):
            raise CorpusError(
                "the annotations were made with another tokenizer than the base model's: annotate the corpus with a "
                "PRM of this tokenizer, or train from the base that belongs to it (--base)"
            )
        used = [(sample.token_ids, sample.targets()[1]) for sample in self.samples]
        used += [(sample.after[:, 1], sample.after[:, 2]) for sample in self.samples if sample.after is not None]
        highest = max(int(ids.max()) for some in used for ids in some)
        lowest = min(int(ids.min()) for some in used for ids in some)
        if lowest < 0:
            raise CorpusError(f"the annotations hold the token id {lowest}: ids count from 0")
        if highest >= rows:
            raise CorpusError(
                f"the annotations have token ids up to {highest}, but the base model has {rows} tokens: they were made "
                "with another tokenizer"
            )

    def seen(self, rows: int) -> torch.Tensor:
        """Bool tensor [rows]: the tokens that occur as a target (paper, section 4.3), said or as a candidate."""
        seen = torch.zeros(rows, dtype=torch.bool)
        for sample in self.samples:
            seen[torch.from_numpy(sample.targets()[1])] = True
            if sample.after is not None:
                seen[torch.from_numpy(sample.after[:, 2])] = True
        return seen

    def share_of(self, seen: torch.Tensor) -> float:
        """Which share of the tokens that were said is among `seen`, a bool tensor [rows]."""
        return sum(int(seen[torch.from_numpy(sample.token_ids[sample.known])].sum()) for sample in self.samples) / (
            self.rewards
        )

    def split(self, share: float, seed: int) -> tuple["RewardData", "RewardData"]:
        """Training and held-out data, by whole records.

        Args:
            share: Of the records, for the held-out data; at least one.
            seed: Which ones.

        Raises:
            CorpusError: There are not two records to part.
        """
        records = sorted({sample.record for sample in self.samples})
        if len(records) < 2:
            raise CorpusError("held-out data need a second record: annotate more, or pass held-out data of their own")
        order = np.random.default_rng(seed).permutation(records)
        held_out = set(order[: max(1, min(len(records) - 1, math.ceil(share * len(records))))].tolist())
        parts: tuple[list[Sample], list[Sample]] = ([], [])
        for sample in self.samples:
            parts[sample.record in held_out].append(sample)
        return RewardData(parts[0], self.manifest), RewardData(parts[1], self.manifest)


def plan_batches(data: RewardData, size: int, epochs: int, seed: int) -> list[list[int]]:
    """The samples of every step: each epoch all of them, in random batches of similar length.

    The same for every number of processes, which share a batch among them.
    """
    lengths = np.array([len(sample.token_ids) for sample in data.samples])
    plan: list[list[int]] = []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(lengths))
        batches = []
        for start in range(0, len(order), 64 * size):
            window = order[start : start + 64 * size]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[i : i + size].tolist() for i in range(0, len(window), size)]
        plan += [batches[i] for i in rng.permutation(len(batches))]
    return plan


def data_digest(*parts: RewardData | None) -> str:
    """A checksum of the data."""
    digest = hashlib.sha256()
    for part in parts:
        # what is held out, and the split by records, make another run of the same rows
        digest.update(f"{len(part.samples) if part else None}\n".encode())
        for sample in part.samples if part else ():
            digest.update(f"{sample.record} {len(sample.token_ids)}\n".encode())
            digest.update(sample.token_ids.tobytes())
            digest.update(sample.rewards.tobytes())
            if sample.candidates is not None and sample.candidate_rewards is not None:
                digest.update(sample.candidates.tobytes() + sample.candidate_rewards.tobytes())
            if sample.after is not None and sample.after_rewards is not None:
                digest.update(sample.after.tobytes() + sample.after_rewards.tobytes())
    return digest.hexdigest()
