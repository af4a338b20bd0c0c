"""Annotated data as training input: our shards, or any table of token ids and token-level rewards."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from langchain_saffron.errors import CorpusError
from langchain_saffron.models.vocabulary import vocabulary_hash
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.shards import CANDIDATES, file_hash, read_manifest

_IDS = ("token_ids", "input_ids", "tokens", "ids")
_REWARDS = ("rewards", "reward", "scores", "labels")

_SHAPE = (
    "annotated rows have token_ids (or input_ids) and rewards: one for each token, null where there is none, or one "
    "for each of the last tokens; `saffron annotate` writes them from conversations"
)

# places of tokens, the tokens, their rewards
Targets = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One conversation with the rewards of some of its prefixes.

    Attributes:
        record: The number of the corpus record that it comes from.
        token_ids: int64 array [tokens].
        rewards: float32 array [tokens]: the PRM's reward of everything up to and including the token; NaN where none is
            known, always so at the first token, which nothing predicts.
        candidates: int64 array [tokens, some]: other tokens that could have stood in each one's place; `None` where
            there are none.
        candidate_rewards: float32 array [tokens, some]: the PRM's reward of everything before the token with the
            candidate in its place; NaN where there is no candidate, or its reward is not known.
        after: int64 array [some, 3]: a place, the token that was said there or a candidate, and the one behind it;
            `None` for none.
        after_rewards: float32 array [some]: the PRM's reward behind each, where it is known.
    """

    record: int
    token_ids: np.ndarray
    rewards: np.ndarray
    candidates: np.ndarray | None = None
    candidate_rewards: np.ndarray | None = None
    after: np.ndarray | None = None
    after_rewards: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        """Bool array [tokens]: where there is a reward."""
        return ~np.isnan(self.rewards)

    def moved(self, start: int, prompt: np.ndarray) -> "Sample":
        """The same with another prompt.

        Args:
            start: Where the prompt that it has ends.
            prompt: int64 array [tokens].
        """
        unknown = np.full(len(prompt), np.nan, dtype=np.float32)
        made = replace(
            self,
            token_ids=np.concatenate([prompt, self.token_ids[start:]]),
            rewards=np.concatenate([unknown, self.rewards[start:]]),
        )
        if self.candidates is None or self.candidate_rewards is None:
            return made
        shape = len(prompt), self.candidates.shape[1]
        return replace(
            made,
            after=None if self.after is None else self.after + np.array([len(prompt) - start, 0, 0]),
            candidates=np.concatenate([np.zeros(shape, dtype=np.int64), self.candidates[start:]]),
            candidate_rewards=np.concatenate(
                [np.full(shape, np.nan, dtype=np.float32), self.candidate_rewards[start:]]
            ),
        )

    def targets(self) -> Targets:
        """All rewards there are: of the tokens that were said, and then of candidates beside them.

        Returns:
            The place of each one's token, int64 array [rewards]; the token itself, likewise; float32 array [rewards].
        """
        at = np.flatnonzero(self.known)
        said = at, self.token_ids[at], self.rewards[at]
        if self.candidates is None or self.candidate_rewards is None:
            return said
        # a candidate beside what has no reward is compared with nothing
        rows, columns = np.nonzero(~np.isnan(self.candidate_rewards) & self.known[:, None])
        beside = rows, self.candidates[rows, columns], self.candidate_rewards[rows, columns]
        where, tokens, rewards = (np.concatenate(parts) for parts in zip(said, beside, strict=True))
        return where, tokens, rewards


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
        path = Path(path).expanduser()
        manifest = read_manifest(path) if path.is_dir() else None
        if manifest is None:
            rows = _foreign(path)
        else:
            if not manifest["complete"]:
                raise CorpusError(f"the annotation in {path} is not finished: run the same saffron annotate again")
            rows = (row for shard in manifest["shards"] for row in _shard(path / shard["file"], shard["sha256"]))
        samples = [sample for sample in rows if sample.known.any()]
        if not samples:
            raise CorpusError(f"{path} holds no rewards: {_SHAPE}")
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


def _shard(path: Path, sha256: str) -> Iterator[Sample]:
    try:
        # Parquet itself does not notice every wrong byte
        if file_hash(path) != sha256:
            raise ValueError("it is not what the manifest says")
        table = pq.read_table(path)
        names = ["record", "token_ids", "response_start", "rewards"]
        beside = [field.name for field in CANDIDATES if field.name in table.column_names]
        columns = [table.column(name).to_pylist() for name in [*names, *beside]]
        for record, ids, start, rewards, *others in zip(*columns, strict=True):
            sample = _sample(record, ids, start, rewards)
            yield _with_candidates(sample, start, *others) if others else sample
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CorpusError(f"{path} is damaged ({error}): delete it and run the same saffron annotate again") from error


def _foreign(path: Path) -> Iterator[Sample]:
    """Rows of a table that somebody else wrote."""
    for record in Corpus.open(path).read():
        if record.data is None:
            raise CorpusError(f"{record.where}: {record.problem}")
        try:
            yield _from_mapping(record.index, record.data)
        except (TypeError, ValueError) as error:
            raise CorpusError(f"{record.where}: {error}; {_SHAPE}") from error


def _from_mapping(index: int, data: Mapping[str, Any]) -> Sample:
    rewards = next((data[name] for name in _REWARDS if data.get(name) is not None), None)
    ids = next((data[name] for name in _IDS if data.get(name) is not None), None)
    if ids is None and data.get("response_ids") is not None:
        ids = [*(data.get("prompt_ids") or []), *data["response_ids"]]
    if ids is None or rewards is None:
        raise ValueError(f"has the fields {', '.join(map(str, data))}")
    start = data.get("response_start")
    return _sample(index, ids, len(ids) - len(rewards) if start is None else start, rewards)


def _sample(record: int, ids: Sequence[int], start: int, rewards: Sequence[float | None]) -> Sample:
    if start < 0 or start + len(rewards) > len(ids):
        raise ValueError(f"has {len(rewards)} rewards from token {start} on, but {len(ids)} tokens")
    aligned = np.full(len(ids), np.nan, dtype=np.float32)
    aligned[start : start + len(rewards)] = np.array(rewards, dtype=np.float32)
    if np.isinf(aligned).any():
        raise ValueError("has an infinite reward")
    aligned[:1] = np.nan
    return Sample(record, np.array(ids, dtype=np.int64), aligned)


def _with_candidates(
    sample: Sample,
    start: int,
    candidates: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]],
    after: Sequence[Sequence[int]],
    after_rewards: Sequence[float],
) -> Sample:
    most = max(map(len, candidates), default=0)
    shape = len(sample.token_ids), most
    tokens, known = np.zeros(shape, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
    for place, (some, of) in enumerate(zip(candidates, rewards, strict=True), start):
        tokens[place, : len(some)], known[place, : len(of)] = some, of
    further = np.array(after_rewards, dtype=np.float32)
    if np.isinf(known).any() or np.isinf(further).any():
        raise ValueError("has an infinite reward")
    made = replace(sample, candidates=tokens, candidate_rewards=known)
    there = ~np.isnan(further)
    if not there.any():
        return made
    return replace(
        made, after=(np.array(after, dtype=np.int64) + np.array([start, 0, 0]))[there], after_rewards=further[there]
    )
