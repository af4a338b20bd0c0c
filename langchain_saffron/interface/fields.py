"""The fields that `ChatSaffron` and `SaffronLLM` share."""

from typing import Annotated, Any, Literal

from langchain_core.utils import secret_from_env
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from langchain_saffron.models.decoder import DEFAULT_CACHE_TOKENS
from langchain_saffron.settings import Mask, OnExhausted, Quantization, Ranking, SearchName, Verify

# an unknown field is an error; each class sets this itself, because langchain-core's own config would win
INTERFACE_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, populate_by_name=True)


class Fields(BaseModel):
    """The flat fields of both classes; `SaffronFields` says what becomes of them."""

    model_config = INTERFACE_CONFIG

    model: Any = None
    """The policy: hub id, directory, GGUF file or loaded causal LM. `"smollm2"`: a small real model with the reward
    models that the package has for it; `"kitchen"` or `None`: the embedded kitchen models."""
    reward_model: Any = None
    """The MRM, or a head on this policy: directory, hub id or loaded."""
    reward_base: Any = None
    """The MRM's base model, if its directory does not name one that can be found."""
    process_reward_model: Any = None
    """Scores finished text, for the searches that ask for it."""
    tokenizer: Any = None
    """The policy's tokenizer, or its directory or hub id, for a model that does not say where its own is."""
    engine: Any = None
    """A `SaffronEngine` to share, instead of `model` and `reward_model`."""
    device: str | None = None
    """`"cpu"`, `"cuda"`, …; `None` takes the accelerator if there is one."""
    dtype: Any = None
    """Of the weights; `None`: float32 on the CPU, the checkpoint's own elsewhere."""
    device_map: Any = None
    """Passed to transformers."""
    attn_implementation: str | None = None
    """`"sdpa"` or `"eager"`, in place of the tree's own attention."""
    quantization: Quantization | None = None
    """`"int8"`: the weights of policy and reward model in int8, on a CPU."""
    quantization_config: Any = None
    """Passed to transformers, for the policy."""
    revision: str | None = None
    """The policy's branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Whether code in checkpoints may run."""
    hf_token: SecretStr | None = Field(default_factory=secret_from_env("HF_TOKEN", default=None), alias="api_key")
    """For gated models; read from `HF_TOKEN` by default."""
    max_cache_tokens: Annotated[int, Field(gt=0)] = DEFAULT_CACHE_TOKENS
    """Slots of each model's KV cache: a bound on memory, and on the length of prompt and answer together."""
    enforce_eager: bool = False
    """Whether decode steps launch their kernels one by one, where on a GPU CUDA graphs do."""
    chat_template: str | None = None
    """A Jinja chat template in place of the tokenizer's."""

    temperature: float | None = None
    """`None` and 0 are deterministic."""
    top_p: float = 0.8
    """Nucleus mass."""
    max_tokens: int | None = None
    """The longest answer; `None`: the generation config's `max_new_tokens`, or 512."""
    min_tokens: int = 0
    """The shortest answer."""
    stop: list[str] | str | None = None
    """Strings that end an answer."""
    seed: int | None = None
    """Makes sampling repeatable."""
    search: SearchName | None = None
    """The decoding method; `None`: what `effort` says."""
    effort: Literal["off", "low", "medium", "high", "max", "auto"] = "medium"
    """`"off"` decodes plainly; the others search with width 1, 4, 16, 64, and `"auto"` as wide as the danger asks; it
    goes back where all has become unsafe."""
    width: int | None = None
    """Beams; overrides `effort`."""
    min_width: int | None = None
    """Beams that a search keeps at least where the KV cache has no room for all of them; where it has none for so many
    either, the request fails. `None`: one, and a request that runs out of time for others is not narrowed."""
    width_floor: int | None = None
    """Beams below which nothing narrows a search: a budget ends earlier, a full KV cache fails. `None`: one."""
    ranking: Ranking = "constrained"
    """`"constrained"` or `"paper"`."""
    mask: Mask = "auto"
    """Tokens that the reward model's training never showed: `"strict"` keeps away from them, `"soft"` takes them for as
    safe as what stands before them, `"off"` believes its predictions; `"auto"` takes `"strict"` where it saw enough."""
    safety_threshold: float | None = None
    """Reward from which more safety no longer counts; `None`: the reward model's own."""
    safety_weight: float = 3.0
    """Nats of log-likelihood that one point of missing reward outweighs."""
    step_back: bool | None = None
    """Whether a search whose beams have all become unsafe goes back to the best of what it did not take and did not
    show; `None`: what `effort` says."""
    verify: Verify | None = None
    """`"prm"`: the process reward model reads every sentence before it is shown, and overrules the MRM."""
    refusal_threshold: float | None = None
    """Nothing whose predicted reward lies below it is ever part of an answer."""
    refusal_text: str | None = None
    """What is said where the search refuses; `None`: a refusal in the model's own words, where it finds one."""
    commit_lag: int | Literal["effort"] | None = "effort"
    """Tokens that the best beam may be ahead of what is final; `None`: any number; `"effort"`: what `effort` says."""
    max_tflops: float | None = None
    """Compute budget of a request, in forward TFLOP."""
    max_seconds: float | None = None
    """Compute budget of a request, in seconds."""
    max_reward_calls: int | None = None
    """Compute budget of a request, in sequences scored by the reward model."""
    on_budget: OnExhausted = "narrow"
    """`"narrow"`, `"stop"` or `"refuse"`."""
    cache_salt: str = ""
    """Requests share cached prompts only under the same salt: give every tenant its own."""
    shared_budget: Any = None
    """A `SharedBudget`, such as that of all steps of an agent; a call's own limits hold as well."""
    response_format: Any = None
    """What an answer has to look like: a JSON schema or class, `{"type": "json_object"}`,
    `{"type": "regex", "regex": …}`, `{"type": "lark", "lark": …}`, or OpenAI's `{"type": "json_schema", …}`."""
    reward_thoughts: bool = True
    """Whether the reward models see what the model thinks before it answers; else they judge only what it says."""
    timeout: Annotated[float, Field(ge=0)] | None = None
    """Seconds after which a request fails with `TimeoutError`."""
    max_retries: int = 0
    """Accepted for compatibility: `with_retry` and agents' `ModelRetryMiddleware` try again what may pass."""
    streaming: bool = False
    """Whether `invoke` streams internally, for callbacks."""
