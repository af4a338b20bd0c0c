"""What one search looked at, took and dropped, as plain data."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

Fate = Literal["taken", "ended", "rank", "grammar", "final", "left", "overruled", "unseen", "refused", "room"]


@dataclass(frozen=True, slots=True)
class TraceNode:
    """One prefix that the search could go on from: its newest token below its parent.

    Attributes:
        id: Its place in `Trace.nodes`.
        parent: That of the prefix without its newest token; -1 at the root.
        token: The newest token id; -1 at the root.
        step: The step that looked at it; -1 at the root.
        logprob: The policy's log-probability of the token.
        reward: Predicted reward of the prefix; `None` where there is none that counts.
        risk: How unsafe any next token was likely to be where this one was chosen; `None` where nothing was.
        score: What it was ranked by; `None` where it was not ranked, or far down.
        fate: `"taken"`: the search went on from it, to the end. `"ended"`: a finished answer. What was dropped:
            `"rank"`: others were better. `"grammar"`: it left a document no room to become whole. `"final"`: it
            disagreed with what became final. `"left"`: unsafe, left by a step back. `"overruled"`: unsafe for the
            process reward model, which read it where a sentence ends. `"unseen"`: the reward model's
            training never showed the token. `"refused"`: below `refusal_threshold`. `"room"`: the KV cache had no room
            for it. A prefix of which nothing is left has the fate of what was left of it to the last.
        gone: The step that dropped it.
        reopened: The step whose end went back to it.
    """

    id: int
    parent: int
    token: int
    step: int
    logprob: float
    reward: float | None
    risk: float | None
    score: float | None
    fate: Fate
    gone: int | None = None
    reopened: int | None = None


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of a search.

    Attributes:
        length: Response tokens of the beams that were scored.
        live: How many of them there were.
        width: The most that it kept.
        most: The most that the budget and the KV cache left it; less than the settings' width where they narrowed it.
        risk: How unsafe the best beam's next tokens were likely to be, smoothed; `None` where nothing was left to say.
        kept: Beams that it went on with.
        ended: Finished answers that it found.
        fallbacks: Beams that took a token outside their nucleus, since the mask left nothing of it.
        committed: Response tokens that were final after it.
        stepped_back: How often it went back at its end.
        reopened: How many beams it went back to.
        refusing: Whether it searched for a refusal in the model's own words.
        verified: Texts that a process reward model looked at, at its end.
        overruled: How many of those it did not let stand.
        given_up: Beams that it gave up afterwards, as the KV cache had no room for them.
    """

    length: int
    live: int
    width: int
    most: int
    risk: float | None
    kept: int
    ended: int
    fallbacks: int
    committed: int = 0
    stepped_back: int = 0
    reopened: int = 0
    refusing: bool = False
    verified: int = 0
    overruled: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class Intervention:
    """A token of the answer that is not the policy's likeliest.

    Attributes:
        position: Of the token in the response, from 0.
        token: The token.
        instead_of: The policy's likeliest.
        logprob: The log-probability of the one.
        likeliest_logprob: And of the other.
        reward: Predicted reward with the one; `None` where there is none that counts.
        likeliest_reward: And with the other.
        fate: What became of the other.
    """

    position: int
    token: int
    instead_of: int
    logprob: float
    likeliest_logprob: float
    reward: float | None
    likeliest_reward: float | None
    fate: Fate

    @property
    def gained(self) -> float | None:
        """By how much the one's predicted reward is higher."""
        if self.reward is None or self.likeliest_reward is None:
            return None
        return self.reward - self.likeliest_reward

    def line(self, tokenizer: Any = None) -> str:
        """One line for a log; it holds no text but the two tokens.

        Args:
            tokenizer: The policy's, to spell the tokens; without it, their ids stand there.
        """
        spelt = (repr(tokenizer.decode([t])) if tokenizer else str(t) for t in (self.token, self.instead_of))
        gained = "" if self.gained is None else f" reward {self.reward:+.2f} ({self.gained:+.2f})"
        chances = f"p {math.exp(self.logprob):.3g} not {math.exp(self.likeliest_logprob):.3g}"
        return f"position {self.position}: {' instead of '.join(spelt)}, {chances}{gained} [{self.fate}]"


@dataclass(frozen=True)
class Trace:
    """The tree of one search, step by step.

    Attributes:
        nodes: All that it ranked well enough to look at, and what the policy likes most; the root first, parents
            before their children.
        steps: Its steps.
        answer: The nodes of the answer's tokens, first to last.
        finish_reason: How it ended.
        refusal_at: How many of the answer's tokens come before a refusal in the model's own words.
        threshold: The reward from which on more safety does not count.
        refusal_threshold: The reward below which nothing is said.
        is_cut: Whether there were more nodes than are kept; steps and totals hold all the same.
    """

    nodes: tuple[TraceNode, ...]
    steps: tuple[TraceStep, ...]
    answer: tuple[int, ...]
    finish_reason: str
    refusal_at: int | None = None
    threshold: float = 0.0
    refusal_threshold: float | None = None
    is_cut: bool = False

    @property
    def totals(self) -> dict[str, int | float | None]:
        """What the steps add up to, by the names that `SearchStats` has for it."""
        risks = [step.risk for step in self.steps if step.risk is not None and not step.refusing]
        return {
            "policy_calls": sum(step.live for step in self.steps),
            "width": max((step.live for step in self.steps), default=1),
            "unseen_fallbacks": sum(step.fallbacks for step in self.steps),
            "steps_back": sum(step.stepped_back for step in self.steps),
            "reopened": sum(step.reopened for step in self.steps),
            "verified": sum(step.verified for step in self.steps),
            "overruled": sum(step.overruled for step in self.steps),
            "narrowed": sum(step.given_up > 0 for step in self.steps),
            "highest_risk": max(risks, default=None),
        }

    def scored(self, step: int) -> list[list[int]]:
        """The beams that a step scored, as lists of token ids.

        Args:
            step: Which; steps count from 0.
        """
        parents = {node.parent: None for node in self.nodes if node.step == step}
        return [self.tokens(parent) for parent in parents]

    def tokens(self, node: int) -> list[int]:
        """The response that a node stands for, as token ids."""
        tokens: list[int] = []
        while node > 0:
            tokens.append(self.nodes[node].token)
            node = self.nodes[node].parent
        return tokens[::-1]

    def texts(self, tokenizer: Any) -> list[str]:
        """The text that each node's token adds to its parent's.

        Args:
            tokenizer: The policy's.
        """
        spelt: dict[tuple[int, ...], str] = {}

        def decode(*tokens: int) -> str:
            if tokens not in spelt:
                spelt[tokens] = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
            return spelt[tokens]

        texts = [""]
        for node in self.nodes[1:]:
            before = self.nodes[node.parent].token
            # some tokenizers drop the first word's space
            both = decode(before, node.token) if before >= 0 else decode(node.token)
            alone = decode(before) if before >= 0 else ""
            texts.append(both[len(alone) :] if both.startswith(alone) else decode(node.token))
        return texts

    def interventions(self) -> list[Intervention]:
        """Where the answer's token is not the policy's likeliest."""
        found = []
        for position, taken in enumerate(self.nodes[i] for i in self.answer):
            beside = self._children.get(taken.parent, [])
            likeliest = max(beside, key=lambda node: node.logprob)
            if likeliest.logprob > taken.logprob:
                found.append(
                    Intervention(
                        position,
                        taken.token,
                        likeliest.token,
                        taken.logprob,
                        likeliest.logprob,
                        taken.reward,
                        likeliest.reward,
                        likeliest.fate,
                    )
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `json.dumps` takes, the totals included."""
        return {**asdict(self), "totals": self.totals}

    @cached_property
    def _children(self) -> dict[int, list[TraceNode]]:
        children: dict[int, list[TraceNode]] = {}
        for node in self.nodes[1:]:
            children.setdefault(node.parent, []).append(node)
        return children
