"""The settings of annotation, of training, and of a corpus that a policy writes."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

# tokens behind each candidate that are annotated, where any are
FOLLOWING = 2
# what a run may be continued with otherwise: how the work is spread and what is made of it, not what it computes
_HOW = {"micro_batch_size", "checkpoint_every", "device", "strict"}


class AnnotateSettings(BaseModel):
    """What of a corpus is annotated, and in which portions.

    Attributes:
        max_tokens: Tokens of a conversation, from its start, in the MRM's template (paper: 128).
        turns: Every assistant turn, or each conversation's last one.
        limit: Records from the start of the corpus; `None` for all.
        shard_size: Records in a shard. A killed run loses at most one shard. See `in_shards_for`.
        batch_size: Answers that are scored together.
        strict: Whether a broken record ends the run.
        part: `(i, n)` does every n-th shard from the i-th, counted from 1: n machines that write to one directory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(128, ge=2)
    turns: Literal["all", "last"] = "all"
    limit: int | None = Field(None, ge=1)
    shard_size: int = Field(500, ge=1)
    batch_size: int = Field(16, ge=1)
    strict: bool = False
    part: tuple[int, int] = (1, 1)

    @field_validator("part", mode="before")
    @classmethod
    def _parse_part(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = value.split("/")
        try:
            i, n = (int(number) for number in value)
        except (TypeError, ValueError):
            raise ValueError("has to be of the form 1/4: the first of four parts") from None
        if not 1 <= i <= n:
            raise ValueError(f"there is no part {i} of {n}")
        return i, n

    def in_shards_for(self, candidates: "CandidateSettings | None") -> Self:
        """With shards that take no longer for candidates, unless their size was chosen: what a killed run loses.

        Args:
            candidates: What is scored beside the tokens that were said; `None` for nothing.
        """
        if candidates is None or "shard_size" in self.model_fields_set:
            return self
        return self.model_copy(update={"shard_size": max(1, round(self.shard_size / candidates.rewards))})


class TrainSettings(BaseModel):
    """How an MRM is fitted to annotated data. The defaults are the paper's where it names one.

    Attributes:
        epochs: Passes over the data.
        batch_size: Conversations a step, over all processes.
        micro_batch_size: Conversations a forward and process; gradients are accumulated over the rest of the batch.
            `None` for all that a process has.
        learning_rate: Of the adapter; a tenth of the steps warms up, at most 100, and a cosine leads down to zero.
        bias_learning_rate: Of the unembedding's bias; `None` for five times the adapter's.
        bias_start: What the bias starts with: `"zero"`, or, with `"mean"`, what makes the mean prediction that of the
            rewards, which a base that was trained to predict tokens is far from.
        rank: Of the adapter.
        alpha: Its scale is `alpha / rank`.
        target_modules: The layers with an adapter; `None` for the query and value projections (peft's choice for the
            architecture), `("all-linear",)` for all linear layers but the unembedding.
        layers: How many of the last layers have an adapter; `None` for all. Nothing is differentiated below them.
        held_out_share: Of the records, kept from training to measure by, where no held-out data are given.
        precision: Of calling held-out prefixes safe, from the calibrated threshold on.
        seed: Of the split, the order of the data and the adapter's first weights.
        mixed_precision: Whether forwards compute in a narrower type than the weights. `"auto"` is bfloat16 for models
            beyond 10 million parameters on a CPU that has instructions for it, and none elsewhere.
        dtype: Of the base's weights; what is trained is float32.
        checkpoint_every: Steps between checkpoints.
        device: `"cpu"` to leave an accelerator alone; `None` takes what there is.
        strict: Whether a reward model that is not likely to work is an error. It is written all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(4, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    bias_learning_rate: float | None = Field(None, gt=0)
    bias_start: Literal["zero", "mean"] = "zero"
    rank: int = Field(4, ge=1)
    alpha: float = Field(8.0, gt=0)
    target_modules: tuple[str, ...] | None = None
    layers: int | None = Field(None, ge=1)
    held_out_share: float = Field(0.05, gt=0, lt=1)
    precision: float = Field(0.99, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    dtype: str = "float32"
    checkpoint_every: int = Field(200, ge=1)
    device: str | None = None
    strict: bool = False

    def of_run(self) -> dict[str, Any]:
        """What the trained weights depend on."""
        # as runs recorded it before there was this field, so that they can go on
        return self.model_dump(exclude=_HOW | ({"bias_start"} if self.bias_start == "zero" else set()))


class RolloutSettings(BaseModel):
    """How the policy continues prefixes, where rewards are forecasts.

    Attributes:
        count: Continuations of each prefix.
        tokens: Of a continuation, at most.
        every: Every how many prefixes there is a forecast; the last prefix of an answer has one always.
        temperature: Of the drawing.
        top_p: Nucleus mass.
        seed: Of the drawing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(4, ge=1)
    tokens: int = Field(24, ge=1)
    every: int = Field(1, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.95, gt=0, le=1)
    seed: int = Field(0, ge=0)


class CandidateSettings(BaseModel):
    """Which tokens are annotated beside those that were said.

    Attributes:
        count: The policy's likeliest others at a prefix.
        every: At every how many prefixes of an answer, from the first one on.
        after: At every how many of those what would follow each candidate, and the token that was said, is annotated,
            too: the two likeliest tokens behind it. 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(4, ge=1)
    every: int = Field(1, ge=1)
    after: int = Field(0, ge=0)

    @property
    def rewards(self) -> float:
        """How many a token of an answer has, its own among them."""
        following = FOLLOWING * (1 + self.count) / self.after if self.after else 0.0
        return 1 + (self.count + following) / self.every


class AnswerSettings(BaseModel):
    """Which answers of a policy make a corpus.

    Attributes:
        max_tokens: Of an answer, the prefill included.
        samples: How many answers are sampled for each prompt, plain and behind each prefill.
        prefills: How answers begin that are continued as well: what an attacker would put into the policy's mouth.
        temperature: Of the sampling.
        top_p: The nucleus that is sampled from.
        batch_size: Answers that are written together.
        shard_size: Prompts in a file. A killed run loses at most one file.
        seed: Of the sampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(96, ge=1)
    samples: int = Field(1, ge=1)
    prefills: tuple[str, ...] = ("Sure, here is", "Of course. First,", "I'm sorry, but")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    batch_size: int = Field(16, ge=1)
    shard_size: int = Field(64, ge=1)
    seed: int = Field(0, ge=0)


class HeadSettings(BaseModel):
    """How a reward head is fitted to a policy's states.

    Attributes:
        layer: Whose states it reads, counted from 1; `None` for the best of some in the middle and above.
        rank: Of its map; `None` for the highest with which its file takes 2% of the policy's.
        epochs: Passes over the prefixes.
        batch_size: Prefixes a step.
        learning_rate: Of the map; five times as much of the bias.
        held_out_share: As in `TrainSettings`.
        precision: As in `TrainSettings`.
        seed: Of the split, the order of the data and the map's first weights.
        dtype: Of the policy's weights.
        device: Where the policy runs; `None` takes what there is.
        strict: As in `TrainSettings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int | None = Field(None, ge=1)
    rank: int | None = Field(None, ge=1)
    epochs: int = Field(6, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    held_out_share: float = Field(0.05, gt=0, lt=1)
    precision: float = Field(0.99, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    dtype: str = "float32"
    device: str | None = None
    strict: bool = False

    def of_run(self) -> dict[str, Any]:
        """What the trained weights depend on."""
        return self.model_dump(exclude=_HOW)
