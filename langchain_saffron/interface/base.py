"""What `ChatSaffron` and `SaffronLLM` share: their fields, and how fields become an engine and settings."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError, model_validator

from langchain_saffron.embedded import World, find_world, near_world, warn_of_kitchen
from langchain_saffron.engine import SaffronEngine, SearchResult
from langchain_saffron.engine.checking import check_models
from langchain_saffron.engine.registry import shared_engine, source_key, spec_key
from langchain_saffron.errors import ModelLoadError, RewardModelRequiredError, SaffronError, SettingsError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.interface.fields import INTERFACE_CONFIG, Fields
from langchain_saffron.interface.identity import identity_of
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.interface.response_format import read_response_format
from langchain_saffron.models.quantization import check_quantization
from langchain_saffron.models.wrapped import is_pipeline
from langchain_saffron.runtime.devices import default_device, default_dtype
from langchain_saffron.runtime.files import local_path
from langchain_saffron.settings import (
    EFFORTS,
    ComputeBudget,
    SearchSettings,
    check_effort,
    describe_validation,
    samples,
)
from langchain_saffron.shared_budget import Share, SharedBudget
from langchain_saffron.tools import ToolFormat

LOADING_FIELDS = (
    "model",
    "reward_model",
    "reward_base",
    "process_reward_model",
    "tokenizer",
    "device",
    "dtype",
    "device_map",
    "attn_implementation",
    "quantization",
    "quantization_config",
    "revision",
    "trust_remote_code",
    "hf_token",
    "max_cache_tokens",
    "enforce_eager",
)
# what langchain-core hands to every call besides the model's own options
FOREIGN_OPTIONS = ("stream", "ls_structured_output_format")

# what others call fields
ALIASES = {"max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "stop_sequences": "stop"}


@dataclass(frozen=True)
class Loaded:
    """An engine that was loaded for some fields.

    Attributes:
        engine: The engine.
        asked: The fields, as they can be compared with those of later.
        sources: What it was loaded from; directories with what was in them.
    """

    engine: SaffronEngine
    asked: Hashable
    sources: dict[str, Any]


class SaffronFields(Fields):
    """The fields of both classes and what becomes of them; see `ChatSaffron` for what they mean."""

    model_config = INTERFACE_CONFIG

    _loaded: Loaded | None = PrivateAttr(default=None)
    _renderer: tuple[Any, PromptRenderer] | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, data: Any) -> Any:
        """OpenAI's and transformers' names of fields, and what an unknown one may have been meant for."""
        if not isinstance(data, dict):
            return data
        given = {ALIASES.get(name, name): value for name, value in data.items()}
        if len(given) < len(data):
            twice = next(name for name in data if name in ALIASES and ALIASES[name] in data)
            raise ValueError(f"{twice} is another name of {ALIASES[twice]}: pass one of them")
        if is_pipeline(given.get("model")):
            pipeline = given["model"]
            given |= {"model": pipeline.model, "tokenizer": given.get("tokenizer") or pipeline.tokenizer}
        known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values() if field.alias)}
        for name in given.keys() - known:
            if near := get_close_matches(str(name), known - {None}, 1):
                raise ValueError(f"there is no field {name!r}: did you mean {near[0]!r}?")
        return given

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """The model, and what was set besides; loaded objects by their kind."""
        yield "model", self.model_name
        for name in type(self).model_fields:
            value = getattr(self, name)
            # RunnableConfigurableFields sets all
            if value is type(self).model_fields[name].default or name not in self.model_fields_set:
                continue
            if name not in ("model", "hf_token", "profile"):
                own = isinstance(value, str | int | float | bool | list | tuple | dict | Path | None)
                yield name, value if own else _Kind(value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares weights, engine and budget."""
        memo = {} if memo is None else memo
        shared = [getattr(self, name) for name in (*LOADING_FIELDS, "engine", "shared_budget")]
        for value in (*shared, self._loaded, self._renderer):
            memo[id(value)] = value
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """What a pickle holds: names and settings, by which weights are loaded again at first use.

        Raises:
            SettingsError: A loaded object was passed: it belongs to this process.
        """
        for name in ("engine", "model", "reward_model", "reward_base", "process_reward_model", "shared_budget"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str | Path):
                raise SettingsError(
                    f"{name}: a {type(value).__name__} belongs to this process and cannot be pickled: pass a hub id or "
                    "directory instead"
                )
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**state["__pydantic_private__"], "_loaded": None, "_renderer": None}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.engine is not None and not isinstance(self.engine, SaffronEngine):
            raise SettingsError(f"engine: expected a SaffronEngine, got {type(self.engine).__name__}")
        if self.engine is not None and (self.model is not None or self.reward_model is not None):
            raise SettingsError("engine: it brings its own models; leave model= and reward_model= out")
        if self.quantization is not None and self.engine is None:
            spec = self._spec()
            named = spec["device"], spec["dtype"], self.device_map, self.quantization_config
            check_quantization(self.quantization, *named)
        settings = self.search_settings()
        needs = settings.needs_reward_model and self.engine is None
        if needs and self._world is None and self.reward_model is None:
            near = near_world(self.model)
            raise RewardModelRequiredError(
                (f"there are no embedded models of the name {self.model!r}: did you mean {near!r}? " if near else "")
                + f"effort={self.effort!r} needs a reward model: pass reward_model= (an MRM directory or hub id), "
                "or effort='off' for plain decoding"
            )
        asks_prm = settings.needs_process_reward_model and self.engine is None
        if asks_prm and self._world is None and self.process_reward_model is None:
            asks = f"search={self.search!r}" if self.verify is None else f"verify={self.verify!r}"
            raise RewardModelRequiredError(
                f"{asks} asks a process reward model: pass process_reward_model= (a guard's or classifier's directory "
                f"or hub id), or leave {asks.partition('=')[0]}= out"
            )
        if isinstance(self.model, Path | str) and not str(self.model).strip():
            raise ModelLoadError("model: an empty string names no model")
        if self.shared_budget is not None and not isinstance(self.shared_budget, SharedBudget):
            raise SettingsError(f"shared_budget: expected a SharedBudget, got {type(self.shared_budget).__name__}")
        if read_response_format(self.response_format) is not None:
            GRAMMARS.require()
        if self.model is None and self.engine is None:
            warn_of_kitchen()
        return self

    @property
    def _world(self) -> World | None:
        """The embedded models that `model` names, if it does."""
        return None if self.engine is not None else find_world(self.model)

    def search_settings(self, stop: list[str] | None = None) -> SearchSettings:
        """The engine's settings that these fields stand for.

        Args:
            stop: A call's stop strings, in place of the field's.

        Raises:
            SettingsError: A value is out of range, or two contradict each other.
        """
        # a field that was assigned, or changed in a copy, was never validated
        check_effort(self.effort)
        search = self.search
        if search is None:
            search = "saffron" if self.effort != "off" else "sample" if samples(self.temperature) else "greedy"
        preset_width, preset_lag = EFFORTS.get(self.effort, (1, None))
        return SearchSettings(
            search=search,
            width=self.width if self.width is not None else preset_width,
            min_width=self.min_width,
            width_floor=self.width_floor,
            adaptive=self.effort == "auto",
            step_back=self.step_back if self.step_back is not None else self.effort == "auto",
            verify=self.verify,
            top_p=self.top_p,
            temperature=self.temperature,
            min_tokens=self.min_tokens,
            max_tokens=self.max_tokens,
            stop=stop if stop is not None else self.stop or (),
            seed=self.seed,
            ranking=self.ranking,
            mask=self.mask,
            safety_threshold=self.safety_threshold,
            safety_weight=self.safety_weight,
            refusal_threshold=self.refusal_threshold,
            refusal_text=self.refusal_text,
            commit_lag=preset_lag if self.commit_lag == "effort" else self.commit_lag,
            budget=ComputeBudget(
                max_tflops=self.max_tflops,
                max_seconds=self.max_seconds,
                max_reward_calls=self.max_reward_calls,
                on_exhausted=self.on_budget,
            ),
        )

    def budgeted_settings(self, stop: list[str] | None = None) -> tuple[SearchSettings, Share | None]:
        """The settings of a call that takes its part of the shared budget, if there is one.

        Raises:
            BudgetError: Nothing is left of it.
        """
        settings = self.search_settings(stop)
        if self.shared_budget is None:
            return settings, None
        share = self.shared_budget.take(settings.budget)
        return settings.model_copy(update={"budget": share.budget}), share

    def load(self) -> SaffronEngine:
        """The engine behind this model; loads the weights if nobody has yet.

        Raises:
            ModelLoadError: A model cannot be loaded.
        """
        if self.engine is not None:
            engine: SaffronEngine = self.engine
            return engine
        asked = self._asked()
        if self._loaded is None or self._loaded.asked != asked:
            spec = self._spec()
            # looked at before the weights are read: who writes them meanwhile makes another model
            sources = {name: source_key(value) for name, value in spec.items()}
            self._loaded = Loaded(shared_engine(**spec), asked, sources)
        return self._loaded.engine

    def check_models(self) -> None:
        """See that `load` would find devices and models, without their weights, where other processes are to load them.

        Raises:
            ModelLoadError: It would not.
        """
        if self.engine is None:
            check_models(**self._spec())

    def sources(self) -> dict[str, Any]:
        """What the engine is, or will be, loaded from; directories with a stamp of what was in them."""
        if self._loaded is not None and self._loaded.asked == self._asked():
            return self._loaded.sources
        return {name: source_key(value) for name, value in self._spec().items()}

    def _asked(self) -> Hashable:
        named = {name: getattr(self, name) for name in LOADING_FIELDS}
        return spec_key({**named, "hf_token": self._token, "adds_prm": self._adds_prm})

    def _spec(self) -> dict[str, Any]:
        """The arguments of the engine's `from_pretrained`."""
        spec = {name: getattr(self, name) for name in LOADING_FIELDS}
        spec["hf_token"] = self._token
        if self._world is not None:
            spec["model"] = self._world.name
            if self._adds_prm:
                spec["process_reward_model"] = self._world.process_reward_model
        spec["device"] = self.device or default_device()
        spec["dtype"] = self.dtype or default_dtype(spec["device"])
        return spec

    @property
    def _token(self) -> str | None:
        return self.hf_token.get_secret_value() if self.hf_token else None

    @property
    def _adds_prm(self) -> bool:
        """Whether an embedded PRM is needed: where a search asks it, and from then on."""
        if self._world is None or self.process_reward_model is not None:
            return False
        has_one = self._loaded is not None and self._loaded.engine.process_reward_model is not None
        return has_one or self.search_settings().needs_process_reward_model

    def renderer(self) -> PromptRenderer:
        """What turns messages into this model's prompts."""
        engine, tool_format = self.load(), self._chosen_tool_format()
        made_for = engine, engine.tokenizer, engine.tokenizer.chat_template, self.chat_template, tool_format
        if self._renderer is None or self._renderer[0] != made_for:
            self._renderer = made_for, PromptRenderer.for_engine(engine, self.chat_template, tool_format)
        return self._renderer[1]

    def _chosen_tool_format(self) -> ToolFormat | None:
        return None

    def with_options(self, options: dict[str, Any]) -> Self:
        """This model with some fields set for one call.

        Raises:
            SettingsError: An option is no field, or its value is not allowed.
        """
        given = {ALIASES.get(name, name): value for name, value in options.items() if name not in FOREIGN_OPTIONS}
        if not given:
            return self
        own = {name: getattr(self, name) for name in self.model_fields_set}
        try:
            copy = type(self)(**{**own, **given})
        except ValidationError as error:
            # pydantic's error would count as one that another try may pass
            raise _settings_error(error) from error
        # each is made anew where it is not what the copy asks for
        copy._loaded, copy._renderer = self._loaded, self._renderer
        return copy

    @property
    def model_name(self) -> str:
        """A short name of the policy."""
        if self.engine is not None:
            return str(self.engine.name)
        if self._world is not None:
            return self._world.name
        if isinstance(self.model, str | Path):
            return str(self.model)
        return getattr(self.model, "name_or_path", "") or type(self.model).__name__

    def identity(self) -> dict[str, Any]:
        """Everything that the answer depends on, without secrets; loaded objects as fingerprints.

        Weights of loaded objects are read only where a cache of LangChain's is in use.
        """
        return identity_of(self)

    def metadata_of(self, result: SearchResult) -> dict[str, Any]:
        """What `response_metadata` says about an answer."""
        return {
            "model_name": self.model_name,
            "finish_reason": result.finish_reason,
            "saffron": {"reward": result.reward, "effort": self.effort, **result.stats.as_dict()},
        }

    def local_model(self) -> Path | None:
        """The policy's directory or file, if it can be read without loading or downloading anything."""
        if self.engine is not None or (self.model is not None and not isinstance(self.model, str | Path)):
            return None
        path = self._world.policy if self._world is not None else local_path(self.model)
        return path if path.exists() else None


class _Kind:
    """Stands for a loaded object where it is shown."""

    def __init__(self, value: Any) -> None:
        self._name = type(value).__name__

    def __repr__(self) -> str:
        return f"<{self._name}>"


def _settings_error(error: ValidationError) -> SaffronError:
    """What pydantic found, as the error of ours that it wrapped, if there is one."""
    raised = (problem.get("ctx", {}).get("error") for problem in error.errors())
    return next((one for one in raised if isinstance(one, SaffronError)), SettingsError(describe_validation(error)))
