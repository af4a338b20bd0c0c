"""What clients send: OpenAI's requests, and the fields of ours beside them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from langchain_saffron.settings import Effort, OnExhausted, Positive, Verify

INTEGER = 2**63
# beams of `effort="max"`
MOST_BEAMS = 64
MOST_STOPS = 64
MOST_PROMPTS = 64

# what the models compute with has less room than a double
Reward = Annotated[float, Field(ge=-1e6, le=1e6)]
# what has only one value here
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[int, Field(ge=1, le=1)]
Count = Annotated[int, Field(ge=1, lt=INTEGER)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class _Wire(BaseModel):
    """What we do not know is an error: a misspelt field should not be lost silently."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class _Lenient(BaseModel):
    """What clients send back as they got it may have more fields than we read."""

    model_config = ConfigDict(extra="ignore")


class ContentPart(BaseModel):
    """A part of a message; only text can be read."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class CalledFunction(_Lenient):
    """What an assistant called, with arguments as JSON."""

    name: str
    arguments: str


class ToolCall(_Lenient):
    """A call in a history."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(_Lenient):
    """One message of the conversation; an assistant's at the end is continued."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Message":
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool's message needs a tool_call_id")
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of the {self.role} needs a content")
        return self


class FunctionDefinition(_Wire):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Wire):
    """A tool that may be called."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(_Wire):
    """A function's name."""

    name: str


class ChosenTool(_Wire):
    """The tool that has to be called."""

    type: Literal["function"]
    function: FunctionName


class StreamOptions(_Wire):
    """What a stream tells besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Decoding(_Wire):
    """What both kinds of requests have."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=1e-6, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-INTEGER, lt=INTEGER)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: One | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    user: str | None = None

    effort: Effort | None = None
    """How hard to search."""
    width: Annotated[int, Field(ge=1, le=MOST_BEAMS)] | None = None
    """Beams; overrides `effort`."""
    min_width: Annotated[int, Field(ge=1, le=MOST_BEAMS)] | None = None
    """Beams that are kept at least where the KV cache is full, or a 400; never fewer than the server's own."""
    max_tflops: Positive | None = None
    """Compute budget, in forward TFLOP."""
    max_seconds: Positive | None = None
    """Compute budget, in seconds."""
    max_reward_calls: Count | None = None
    """Compute budget, in sequences scored by the reward model."""
    on_budget: OnExhausted | None = None
    """What happens where a budget runs short."""
    refusal_threshold: Reward | None = None
    """Nothing whose predicted reward lies below it is said; never lower than the server's own."""
    verify: Verify | None = None
    """`"prm"`: a process reward model reads every sentence before it is shown; where the server has one."""
    min_tokens: Annotated[int, Field(ge=0, lt=INTEGER)] | None = None
    """The shortest answer."""
    cache_salt: Annotated[str, Field(max_length=1000)] | None = None
    """Requests of one key share cached prompts only under the same salt."""
    response_format: dict[str, Any] | None = None
    """What the answer has to look like: a JSON schema, any JSON object, a regular expression or a Lark grammar."""


class ChatRequest(Decoding):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str, Field(max_length=100)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template."""

    # taken and not used: what other servers do with them
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1)] | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    verbosity: str | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_completion_tokens is another name of max_tokens: send one of them")
        return self


class CompletionRequest(Decoding):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
    best_of: One | None = None
    echo: Literal[False] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    logprobs: None = None
