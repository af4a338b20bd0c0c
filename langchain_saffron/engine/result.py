"""What a request gives back."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from langchain_saffron.search import Answer
from langchain_saffron.search.protocol import FinishReason
from langchain_saffron.search.trace import Trace


@dataclass(slots=True)
class SearchStats:
    """What one request cost; readable as attributes or, like a dict, by name.

    Attributes:
        policy_calls: Sequences scored by the policy, as the paper counts calls.
        reward_calls: Sequences scored by a reward model.
        policy_tokens: Tokens that went through the policy, the prompt's included.
        reward_tokens: Tokens that went through the reward model.
        cached_tokens: Prompt tokens of both models that were in the cache already.
        cached_prompt: The policy's share of them.
        tflops: Forward TFLOP of all models.
        seconds: From the hand-in to the answer.
        width: The most beams scored at once.
        unseen_fallbacks: How often the mask of unseen tokens emptied a beam's nucleus.
        min_reward: The lowest predicted reward of any token of the answer.
        budget_exhausted: Whether a limit of the compute budget ended the search.
        risk: How unsafe the answer's tokens were likely to be before they were chosen: what the reward model expects
            of the policy's own next words, in [0, 1], the last tokens most of all; `None` without a reward model.
        highest_risk: The same where it was highest.
        steps_back: How often the search left unsafe beams for roads that it had not taken.
        reopened: How many of those it took.
        verified: How many texts the process reward model looked at before they were final.
        overruled: How many of those it did not let stand.
        prm_tflops: Its share of `tflops`.
        narrowed: Steps before which the search gave up its worst beams, as the KV cache had no room for all of them
            (see `SearchSettings.min_width`).
        narrowest_width: The beams that were left where there were the fewest; `None` where there was always room.
    """

    policy_calls: int = 0
    reward_calls: int = 0
    policy_tokens: int = 0
    reward_tokens: int = 0
    cached_tokens: int = 0
    cached_prompt: int = 0
    tflops: float = 0.0
    seconds: float = 0.0
    width: int = 0
    unseen_fallbacks: int = 0
    min_reward: float | None = None
    budget_exhausted: bool = False
    risk: float | None = None
    highest_risk: float | None = None
    steps_back: int = 0
    reopened: int = 0
    verified: int = 0
    overruled: int = 0
    prm_tflops: float = 0.0
    narrowed: int = 0
    narrowest_width: int | None = None

    def close(self, answer: Answer, seconds: float) -> None:
        """Add what is known only at the end."""
        self.seconds = seconds
        self.width = answer.width
        self.unseen_fallbacks = answer.unseen_fallbacks
        self.min_reward = answer.min_reward
        self.budget_exhausted = answer.budget_exhausted
        self.risk = answer.risk
        self.highest_risk = answer.highest_risk
        self.steps_back = answer.steps_back
        self.reopened = answer.reopened
        self.verified = answer.verified
        self.overruled = answer.overruled
        self.narrowed = answer.narrowed
        self.narrowest_width = answer.narrowest_width

    def as_dict(self) -> dict[str, int | float | bool | None]:
        """A plain dict, for metadata and JSON."""
        return asdict(self)

    def keys(self) -> Iterator[str]:
        """The names, so that `dict(stats)` works."""
        return iter(asdict(self))

    def __getitem__(self, name: str) -> int | float | bool | None:
        return self.as_dict()[name]


def refusal_category(budget_exhausted: bool) -> str:
    """Why a search refuses."""
    return "budget" if budget_exhausted else "safety"


class RefusalText(str):
    """A piece of a streamed answer that refuses, the last piece there is.

    Attributes:
        category: Why: `"safety"`, or `"budget"` where that was spent.
    """

    category: str

    def __new__(cls, text: str, category: str) -> "RefusalText":
        """Mark a text as a refusal."""
        made = super().__new__(cls, text)
        made.category = category
        return made


class ThoughtText(str):
    """A piece of a streamed answer that is a thought, and no part of its text.

    Attributes:
        begins: Whether it is the first piece of a thought.
    """

    begins: bool

    def __new__(cls, text: str, begins: bool = False) -> "ThoughtText":
        """Mark a text as a thought."""
        made = super().__new__(cls, text)
        made.begins = begins
        return made


class MarkerText(str):
    """A control token in a streamed answer, by its name: what reads tool calls has to see it, and no text holds it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SearchResult:
    """An answer.

    Attributes:
        token_ids: The response's tokens, the end-of-turn token included where there is one.
        text: The response's text, cut before a stop string; the refusal text included where it refused.
        reward: Predicted reward of the response; `None` where no reward model was asked.
        finish_reason: `"stop"`, `"length"`, `"refusal"` or `"budget"`.
        beams: If recorded, the live beams after every step, as lists of response token ids.
        stats: What it cost.
        complete: Whether the answer follows its grammar to the end: not where tokens or budget ran out inside a
            document, or a stop string or a refusal cut it. `True` without a grammar.
        parts: The text in the order in which it was given out, with the thoughts (`ThoughtText`) and control tokens
            (`MarkerText`) between; empty where neither was looked for.
        thought_tokens: How many of the tokens belong to thoughts; `None` where those were not looked for.
        said_ids: The other tokens, without markers of thoughts; `None` likewise.
        refusal: The end of the text that refuses; `None` where nothing does.
        trace: If recorded, the tree of the search: what it looked at, took and dropped.
    """

    token_ids: list[int]
    text: str
    reward: float | None
    finish_reason: FinishReason
    beams: list[list[list[int]]] | None = None
    stats: SearchStats = field(default_factory=SearchStats)
    complete: bool = True
    parts: list[str] = field(default_factory=list)
    thought_tokens: int | None = None
    said_ids: list[int] | None = None
    refusal: str | None = None
    trace: Trace | None = None

    @property
    def refusal_category(self) -> str:
        """Why it refuses, if it does: `"safety"`, or `"budget"` where that was spent."""
        return refusal_category(self.stats.budget_exhausted)


@dataclass(frozen=True, slots=True)
class PromptRisk:
    """How safe the policy's next words are likely to be; `None` where the reward model knows none of them.

    Attributes:
        expected: Predicted reward of the next token, weighted by the policy's nucleus.
        lowest: The lowest predicted reward in that nucleus.
        stats: What the look cost.
    """

    expected: float | None
    lowest: float | None
    stats: SearchStats
