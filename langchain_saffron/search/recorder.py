"""Notes what a search does while it does it."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from langchain_saffron.runtime.devices import upload
from langchain_saffron.search.beams import Beam
from langchain_saffron.search.constraint import constrain
from langchain_saffron.search.node import Node
from langchain_saffron.search.rewards import Rewards
from langchain_saffron.search.rules import Rules
from langchain_saffron.search.selection import Candidate, Selection
from langchain_saffron.search.trace import Fate, Trace, TraceNode, TraceStep
from langchain_saffron.settings import SearchSettings

# nodes that are kept: some 20 MB, and a page that a browser still opens
MOST_NODES = 50_000
# of each beam's likeliest next tokens, those that are noted even where they are no candidates
LIKELIEST = 6
# of what a step drops, what tells best why a beam has nothing left
_LATEST: tuple[Fate, ...] = (
    "taken", "ended", "overruled", "left", "final", "room", "rank", "grammar", "refused", "unseen",
)  # fmt: skip


@dataclass(slots=True)
class Looked:
    """What a step looked at.

    Attributes:
        parents: The beams that were scored.
        logits: float32 [beams, vocabulary].
        rewards: The reward model's.
        permitted: What a grammar allows.
        may_end: Whether ending was allowed.
        selection: The candidates.
        count: How many of those the search had a look at, best first.
    """

    parents: Sequence[Beam]
    logits: torch.Tensor
    rewards: Rewards
    permitted: torch.Tensor | None
    may_end: bool
    selection: Selection
    count: int


class Recorder:
    """Makes the `Trace` of one search, which is no different for it."""

    def __init__(self, most: int = MOST_NODES) -> None:
        """Begin.

        Args:
            most: Nodes that are kept.
        """
        self._most = most
        self._nodes = [TraceNode(0, -1, -1, -1, 0.0, None, None, None, "taken")]
        self._ids: dict[tuple[Node | None, int], int] = {(None, -1): 0}
        self._steps: list[TraceStep] = []
        # live beams and finished answers that nothing has dropped yet
        self._standing: set[int] = set()
        self._refusing = False
        self._is_cut = False

    def step(
        self,
        looked: Looked,
        rules: Rules,
        kept: Sequence[Beam],
        ended: Sequence[Beam],
        width: int,
        most: int,
        risk: float | None,
    ) -> None:
        """Note a step.

        Args:
            looked: What it looked at.
            rules: What decided.
            kept: Beams that it goes on with.
            ended: Finished answers that it found.
            width: The most that it kept.
            most: The most that the budget and the KV cache left it.
            risk: Of the best beam, smoothed.
        """
        now = len(self._steps)
        logprobs = _logprobs(looked, rules)
        fates: dict[tuple[Node | None, int], Fate] = {_key(beam): "taken" for beam in kept}
        fates.update((_key(beam), "ended") for beam in ended)
        candidates, rank = looked.selection.candidates, 0
        rows, tokens = [c.beam for c in candidates], [c.token for c in candidates]
        for place, (candidate, logprob) in enumerate(zip(candidates, logprobs[rows, tokens].tolist(), strict=True)):
            key = (looked.parents[candidate.beam].node, candidate.token)
            # a finished answer below the width is none either
            late: Fate = "grammar" if place < looked.count and rank < width and key not in fates else "rank"
            rank += key in fates
            self._add(key, now, logprob, candidate.reward, candidate, fates.get(key, late))
        self._add_likeliest(looked, rules, logprobs, now)
        self._standing -= {self._id(beam) for beam in looked.parents}
        self._standing |= {self._id(beam) for beam in (*kept, *ended)}
        sizes = len(looked.parents), width, most, risk if candidates else None, len(kept), len(ended)
        said = self._steps[-1].committed if self._steps else 0
        self._steps.append(
            TraceStep(
                looked.parents[0].node.length,
                *sizes,
                looked.selection.fallbacks,
                said,
                refusing=self._refusing,
            )
        )

    def look(self, overruled: Iterable[Beam], verified: int, fell: int) -> None:
        """Note a look of the process reward model.

        Args:
            overruled: Beams that it did not let stand.
            verified: Texts that it looked at.
            fell: How many of those it did not let stand.
        """
        gone = {self._id(beam) for beam in overruled}
        self._fate(gone, "overruled", len(self._steps) - 1)
        self._standing -= gone
        last = self._steps[-1]
        self._steps[-1] = replace(last, verified=last.verified + verified, overruled=last.overruled + fell)

    def step_back(self, roads: Collection[Beam]) -> None:
        """Note that all that stood was left for other beams."""
        now = len(self._steps) - 1
        self._fate(self._standing, "left", now)
        self._standing = {self._id(beam) for beam in roads}
        for i in self._standing - {-1}:
            self._nodes[i] = replace(self._nodes[i], fate="taken", gone=None, reopened=now)
        last = self._steps[-1]
        self._steps[-1] = replace(last, stepped_back=last.stepped_back + 1, reopened=last.reopened + len(roads), kept=0)

    def give_up(self, beams: Sequence[Beam]) -> None:
        """Note that the KV cache had no room for some live beams."""
        gone = {self._id(beam) for beam in beams}
        self._fate(gone, "room", len(self._steps) - 1)
        self._standing -= gone
        last = self._steps[-1]
        self._steps[-1] = replace(last, given_up=last.given_up + len(beams), kept=last.kept - len(beams))

    def settle(self, live: Sequence[Beam], pool: Sequence[Beam], committed: tuple[int, ...]) -> None:
        """Note the end of a step.

        Args:
            live: Beams that it goes on with.
            pool: Finished answers.
            committed: What is final.
        """
        now = len(self._steps) - 1
        gone = self._standing - {self._id(beam) for beam in (*live, *pool)} - {-1}
        apart = {i for i in gone if not self._agrees(i, committed)}
        self._fate(apart, "final", now)
        self._fate(gone - apart, "rank", now)
        self._standing -= gone
        for i in (self._id(beam) for beam in pool if beam.finished):
            if i >= 0:
                self._nodes[i] = replace(self._nodes[i], fate="ended")
        said = self._steps[-1].committed if self._refusing else len(committed)
        self._steps[-1] = replace(self._steps[-1], committed=said, kept=len(live))

    def refuse(self) -> None:
        """Note that what follows is the search for a refusal."""
        self._refusing = True
        self._standing = set()

    def trace(
        self, tokens: Sequence[int], finish_reason: str, refusal_at: int | None, settings: SearchSettings
    ) -> Trace:
        """All that was noted.

        Args:
            tokens: The answer.
            finish_reason: How the search ended.
            refusal_at: Where a refusal in the model's own words begins.
            settings: `safety_threshold` filled in.
        """
        below = {(node.parent, node.token): node.id for node in self._nodes}
        path: list[int] = []
        for token in tokens:
            i = below.get((path[-1] if path else 0, token))
            if i is None:
                break
            path.append(i)
        for i in path:
            if self._nodes[i].gone is not None:
                fate: Fate = "ended" if self._nodes[i].fate == "ended" else "taken"
                self._nodes[i] = replace(self._nodes[i], fate=fate, gone=None)
        self._drop_dead_ends()
        return Trace(
            tuple(self._nodes),
            tuple(self._steps),
            tuple(path),
            finish_reason,
            refusal_at,
            settings.safety_threshold or 0.0,
            settings.refusal_threshold,
            self._is_cut,
        )

    def _add_likeliest(self, looked: Looked, rules: Rules, logprobs: torch.Tensor, now: int) -> None:
        """What the policy likes most, and is no candidate."""
        chances, tokens = logprobs.topk(min(LIKELIEST, logprobs.shape[1]), dim=-1)
        rewards = looked.rewards.aside().of(tokens, torch.ones_like(tokens, dtype=torch.bool)).tolist()
        before = (chances.exp().cumsum(-1) - chances.exp()).tolist()
        exempt = {*rules.end_tokens.tolist(), *rules.marks.tolist()}
        for row, parent in enumerate(looked.parents):
            free = math.isinf(rewards[row][0])
            for column, token in enumerate(tokens[row].tolist()):
                key, logprob = (parent.node, token), float(chances[row, column])
                if not math.isfinite(logprob) or (before[row][column] >= rules.top_p and column):
                    break
                if self._ids.get(key, 0) and self._nodes[self._ids[key]].step == now:
                    continue
                inherits = free or token in exempt
                reward = parent.reward if inherits else rewards[row][column]
                fate: Fate = "rank"
                if rules.seen is not None and not rules.soft and not inherits and not bool(rules.seen[token]):
                    # what is predicted for it means nothing
                    fate, reward = "unseen", None
                elif reward is not None and rules.refusal_threshold is not None and reward < rules.refusal_threshold:
                    fate = "refused"
                self._add(key, now, logprob, reward, None, fate)

    def _add(
        self,
        key: tuple[Node, int],
        now: int,
        logprob: float,
        reward: float | None,
        candidate: Candidate | None,
        fate: Fate,
    ) -> None:
        parent = self._ids.get((key[0].parent, key[0].token))
        if parent is None or len(self._nodes) >= self._most:
            self._is_cut = True
            return
        i = self._ids[key] = len(self._nodes)
        risk, score = (None, None) if candidate is None else (candidate.risk, candidate.score)
        gone = None if fate in ("taken", "ended") else now
        self._nodes.append(TraceNode(i, parent, key[1], now, logprob, reward, risk, score, fate, gone))

    def _drop_dead_ends(self) -> None:
        """What leads to nothing that stands shares the fate of what stood below it to the last."""
        last: dict[int, TraceNode | None] = {}
        for node in reversed(self._nodes[1:]):
            below = last.get(node.id)
            if node.id in last and below is not None and node.fate == "taken":
                node = self._nodes[node.id] = replace(node, fate=below.fate, gone=below.gone)
            if node.gone is None:
                last[node.parent] = None
            elif (beside := last.setdefault(node.parent, node)) is not None:
                last[node.parent] = max(beside, node, key=lambda one: (one.gone, -_LATEST.index(one.fate)))

    def _fate(self, ids: Iterable[int], fate: Fate, now: int) -> None:
        for i in ids:
            if i > 0:
                self._nodes[i] = replace(self._nodes[i], fate=fate, gone=now)

    def _agrees(self, i: int, committed: tuple[int, ...]) -> bool:
        tokens: list[int] = []
        while i > 0:
            tokens.append(self._nodes[i].token)
            i = self._nodes[i].parent
        return tuple(tokens[::-1][: len(committed)]) == committed

    def _id(self, beam: Beam) -> int:
        """Its node's place; -1 for one that is not kept."""
        return self._ids.get(_key(beam), -1)


def _key(beam: Beam) -> tuple[Node | None, int]:
    return beam.node.parent, beam.node.token


def _logprobs(looked: Looked, rules: Rules) -> torch.Tensor:
    """float32 [beams, vocabulary], on the CPU: the policy's own, over what may follow."""
    logits = looked.logits
    if looked.permitted is not None:
        logits = constrain(logits, upload(looked.permitted, torch.bool, logits.device))
    elif not looked.may_end and len(rules.end_tokens):
        logits = logits.index_fill(1, upload(rules.end_tokens, torch.long, logits.device), -torch.inf)
    return torch.log_softmax(logits, dim=-1).nan_to_num_(nan=-torch.inf, neginf=-torch.inf).cpu()
