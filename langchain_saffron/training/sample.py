"""One annotated conversation, as training reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

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

    @classmethod
    def of_row(cls, record: int, ids: Sequence[int], start: int, rewards: Sequence[float | None]) -> "Sample":
        """A conversation as tables hold it.

        Args:
            record: The number of the corpus record that it comes from.
            ids: Its tokens.
            start: From which token on there are rewards.
            rewards: One a token; `None` where it is not known.

        Raises:
            ValueError: There are more rewards than tokens, or one is infinite.
        """
        if start < 0 or start + len(rewards) > len(ids):
            raise ValueError(f"has {len(rewards)} rewards from token {start} on, but {len(ids)} tokens")
        aligned = np.full(len(ids), np.nan, dtype=np.float32)
        aligned[start : start + len(rewards)] = np.array(rewards, dtype=np.float32)
        if np.isinf(aligned).any():
            raise ValueError("has an infinite reward")
        aligned[:1] = np.nan
        return cls(record, np.array(ids, dtype=np.int64), aligned)

    def with_candidates(
        self,
        start: int,
        candidates: Sequence[Sequence[int]],
        rewards: Sequence[Sequence[float]],
        after: Sequence[Sequence[int]],
        after_rewards: Sequence[float],
    ) -> "Sample":
        """The same with candidates, as tables hold them.

        Args:
            start: The token that the first list of candidates stands beside.
            candidates: Those of each token from there on.
            rewards: Theirs.
            after: As in the attribute, the places counted from `start`.
            after_rewards: Theirs.

        Raises:
            ValueError: A reward is infinite.
        """
        most = max(map(len, candidates), default=0)
        shape = len(self.token_ids), most
        tokens, known = np.zeros(shape, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
        for place, (some, of) in enumerate(zip(candidates, rewards, strict=True), start):
            tokens[place, : len(some)], known[place, : len(of)] = some, of
        further = np.array(after_rewards, dtype=np.float32)
        if np.isinf(known).any() or np.isinf(further).any():
            raise ValueError("has an infinite reward")
        made = replace(self, candidates=tokens, candidate_rewards=known)
        there = ~np.isnan(further)
        if not there.any():
            return made
        return replace(
            made, after=(np.array(after, dtype=np.int64) + np.array([start, 0, 0]))[there], after_rewards=further[there]
        )

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
