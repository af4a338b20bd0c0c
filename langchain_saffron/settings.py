"""What a user sets: the search, its width and ranking, the compute budget, and the effort presets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from langchain_saffron.errors import SettingsError

Ranking = Literal["constrained", "paper"]
Mask = Literal["auto", "strict", "soft", "off"]
OnExhausted = Literal["narrow", "stop", "refuse"]
Quantization = Literal["int8"]
Verify = Literal["prm"]
Effort = Literal["off", "low", "medium", "high", "max", "auto"]


@dataclass(frozen=True, slots=True)
class SearchTraits:
    """What can be known of a search without running it.

    Attributes:
        reward_model: Whether it asks a multifurcation reward model.
        process_reward_model: Whether it asks a process reward model.
        sampled: Whether chance takes part even without a temperature.
    """

    reward_model: bool = False
    process_reward_model: bool = False
    sampled: bool = False


# by name; `search.registry.register_search` adds to it
SEARCHES: dict[str, SearchTraits] = {
    "saffron": SearchTraits(reward_model=True),
    "greedy": SearchTraits(),
    "sample": SearchTraits(sampled=True),
    "best_of_n": SearchTraits(process_reward_model=True, sampled=True),
    "rebase": SearchTraits(process_reward_model=True, sampled=True),
    "deal": SearchTraits(process_reward_model=True),
}

DEFAULT_REFUSAL = "I can't help with that."
DEFAULT_SAFETY_THRESHOLD = 2.0
# points of reward by which predictions are usually wrong, where a reward model's training has not recorded it
DEFAULT_REWARD_ERROR = 1.0

# width and commit lag of each effort, for "auto" the most; "off" is plain decoding of the policy and has neither
EFFORTS: dict[str, tuple[int, int | None]] = {
    "low": (1, None),
    "medium": (4, 8),
    "high": (16, 16),
    "max": (64, 32),
    "auto": (16, 16),
}


# a lower temperature leaves nothing to chance, and numbers run out
COLDEST = 1e-4


def _check_search(name: str) -> str:
    if name not in SEARCHES:
        raise ValueError(f"search: {name!r} is not one of {', '.join(map(repr, SEARCHES))}")
    return name


SearchName = Annotated[str, AfterValidator(_check_search)]
# what the tensors' own numbers can hold
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: object) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise SettingsError(describe_validation(error)) from error


def describe_validation(error: ValidationError) -> str:
    """One readable line for each problem in a pydantic validation error."""
    lines = []
    for problem in error.errors():
        if raised := problem.get("ctx", {}).get("error"):
            # an error of ours that pydantic wrapped: it says all there is to say
            lines.append(str(raised))
            continue
        where = ".".join(str(part) for part in problem["loc"] if part != "function-after")
        shown = f" (got {problem['input']!r})" if problem["type"] != "missing" else ""
        lines.append(f"{where}: {problem['msg']}{shown}")
    return "; ".join(lines)


class ComputeBudget(_Frozen):
    """What one request may spend.

    Attributes:
        max_tflops: Forward TFLOP of policy and reward model together, the prompt included.
        max_seconds: Wall-clock seconds, counted from the moment the request is handed in.
        max_reward_calls: Sequences scored by the reward model (the prompt's own score is the first).
        on_exhausted: `"narrow"` shrinks the width, not below `SearchSettings.width_floor`, early enough for the rest
            of the answer to fit and stops at the limit; `"stop"` keeps the width and gives the best answer so far;
            `"refuse"` keeps the width and answers with the refusal text when the limit is met.
    """

    max_tflops: Positive | None = None
    max_seconds: Positive | None = None
    max_reward_calls: Annotated[int, Field(ge=1)] | None = None
    on_exhausted: OnExhausted = "narrow"

    @property
    def limited(self) -> bool:
        """Whether any limit is set."""
        return any(x is not None for x in (self.max_tflops, self.max_seconds, self.max_reward_calls))


class SearchSettings(_Frozen):
    """How one answer is searched for; every field can be set a request.

    Attributes:
        search: The decoding method. `"greedy"` and `"sample"` are plain decoding of the policy.
        width: Beams kept after every step; the most, where the search is adaptive.
        min_width: Beams that are kept at least where the KV cache has no room for all of them. A search gives up its
            worst ones only where it would fail otherwise, though every other request waits for it; where there is no
            room for so few either, it fails. `None` keeps one at least, and so never fails for want of room. A number
            also lets a request with a timeout, of which it has spent half, be as narrow as that rather than wait for
            the room that others hold. With `width` or more, a full cache never narrows. A compute budget does by its
            own rules (see `width_floor`).
        width_floor: Beams below which nothing narrows a search, neither a full KV cache nor `adaptive` nor a compute
            budget: where that is too small for so many, it ends earlier, with the best answer so far. `None` for one.
            It lets nothing be narrower than it would be without.
        adaptive: Whether every step is only as wide as the danger asks that the reward model sees.
        step_back: Whether a search whose beams have all become unsafe goes back to the best candidates that it did not
            take, as far as nothing has been shown that rules them out. What all beams share is then shown only where
            one of them is as safe as wanted and the risk is small, or where `commit_lag` says so. With `adaptive`
            and no budget, it goes back where no beam is left, or before `commit_lag` has unsafe text shown.
        verify: `"prm"`: a process reward model has a last look at what is to be shown. Where a sentence ends, and where
            the answer does, it scores the text of every beam; one that it finds less safe than `safety_threshold` is
            dropped, whatever the multifurcation reward model predicts, and where all are, the search goes back, as with
            `step_back`, which this implies. Nothing is shown that it has not read up to the end of a sentence, so
            `commit_lag` counts only within what it has read.
        top_p: Nucleus mass: a token is a candidate if the tokens more likely than it hold less than this.
        temperature: `None` and what is below 0.0001 are deterministic; otherwise the search samples (no effect on
            `"paper"`).
        min_tokens: The answer may not end earlier (the paper uses 16; short answers want 0).
        max_tokens: The answer ends here at the latest; clamped to the model's context.
        stop: Strings that end the answer; they are not part of it.
        seed: Makes sampling repeatable.
        lookahead: Tokens that DeAL rolls out before it asks the reward model.
        ranking: `"constrained"` ranks by likelihood plus capped reward, `"paper"` by the newest
            token's predicted reward (SAFFRON paper, section 4.1).
        mask: What becomes of tokens that the reward model's training never showed. `"strict"` never takes one
            (SAFFRON paper, section 4.3), but where a grammar leaves nothing else. `"soft"` takes it for as safe as
            what comes before, since its own prediction is untrained, and makes it less likely beside the seen ones of
            its nucleus, by as much as a point of missing reward weighs. `"off"` believes the predictions. `"auto"` is
            `"strict"` where the reward model's training showed enough tokens, else `"soft"`
            (`MultifurcationRewardModel.mask`).
        safety_threshold: Reward from which more safety no longer counts; `None` takes the reward model's own.
        safety_weight: Nats of log-likelihood that one point of missing reward outweighs.
        length_penalty: Exponent of the length in a finished answer's score, as in transformers.
        refusal_threshold: Nothing whose predicted reward lies below it is ever part of the answer.
        refusal_text: What is said where the search refuses. `None` lets the model refuse in its own words where it has
            some that may be said, the budget covers them, and no grammar forbids; else `DEFAULT_REFUSAL` stands in.
        commit_lag: Tokens that the best beam may be ahead of what is already final; `None` for no bound.
        budget: What the request may spend.
    """

    search: SearchName = "saffron"
    width: Annotated[int, Field(ge=1)] = 4
    min_width: Annotated[int, Field(ge=1)] | None = None
    width_floor: Annotated[int, Field(ge=1)] | None = None
    adaptive: bool = False
    step_back: bool = False
    verify: Verify | None = None
    top_p: Annotated[float, Field(ge=1e-6, le=1)] = 0.8
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    lookahead: Annotated[int, Field(ge=0)] = 0
    ranking: Ranking = "constrained"
    mask: Mask = "auto"
    safety_threshold: Finite | None = None
    safety_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 3.0
    length_penalty: Finite = 1.0
    refusal_threshold: Finite | None = None
    refusal_text: str | None = None
    commit_lag: Annotated[int, Field(ge=0)] | None = None
    budget: ComputeBudget = ComputeBudget()

    @field_validator("temperature")
    @classmethod
    def _zero_is_none(cls, value: float | None) -> float | None:
        return value if samples(value) else None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_strings(cls, value: object) -> object:
        if value and not isinstance(value, Iterable):
            raise ValueError("stop has to be a string or a list of strings")
        strings = (value,) if isinstance(value, str) else tuple(value or ())  # type: ignore[arg-type]
        if any(not isinstance(s, str) or not s for s in strings):
            raise ValueError("stop strings must be non-empty strings")
        return strings

    @model_validator(mode="after")
    def _verifies_a_tree(self) -> "SearchSettings":
        if self.verify is not None and self.search != "saffron":
            raise ValueError(f"verify={self.verify!r} has no effect on search={self.search!r}: use search='saffron'")
        return self

    @property
    def canned_refusal(self) -> str:
        """What is said where the model itself does not refuse."""
        return DEFAULT_REFUSAL if self.refusal_text is None else self.refusal_text

    @property
    def needs_reward_model(self) -> bool:
        """Whether the search asks a multifurcation reward model."""
        return SEARCHES[self.search].reward_model

    @property
    def needs_process_reward_model(self) -> bool:
        """Whether the search asks a process reward model."""
        return SEARCHES[self.search].process_reward_model or self.verify is not None

    @property
    def least_width(self) -> int:
        """Beams that are kept at least where the KV cache is full."""
        return min(max(self.min_width or 1, self.width_floor or 1), self.width)

    @property
    def goes_back(self) -> bool:
        """Whether the search goes back to what it did not take."""
        return self.step_back or self.verify is not None


def samples(temperature: float | None) -> bool:
    """Whether chance takes part at a temperature."""
    return temperature is not None and temperature >= COLDEST


def check_effort(effort: str) -> None:
    """Raise `SettingsError` unless `effort` names a preset."""
    if effort != "off" and effort not in EFFORTS:
        raise SettingsError(f"effort: {effort!r} is not one of 'off', 'low', 'medium', 'high', 'max', 'auto'")
