"""What `saffron annotate` annotates by, loaded here or in the workers of Ray."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_saffron.cli.console import quieten
from langchain_saffron.cli.guards import guard_prompt, named_function
from langchain_saffron.errors import SettingsError

if TYPE_CHECKING:
    from langchain_saffron.training.annotator import Annotator
    from langchain_saffron.training.settings import AnnotateSettings, CandidateSettings, RolloutSettings


@dataclass(frozen=True)
class Models:
    """What annotates, as the options of `saffron annotate` name it.

    Attributes:
        prm: The process reward model: a path, a hub id, or a function as `module:function`.
        guard: How it is asked: a preset's name or a file; `None` for what its name suggests.
        safe: Its token or label that means safe, in place of the usual one.
        unsafe: The one that means unsafe.
        tokenizer: Whose ids are scored, where it is not the PRM's own.
        device: Where the models run.
        dtype: Of their weights.
        policy: What continues answers or names candidates; `None` for neither.
        rollouts: How it continues; `None` for no forecasts.
        candidates: How it names candidates; `None` for none.
    """

    prm: str
    guard: str | None = None
    safe: str | None = None
    unsafe: str | None = None
    tokenizer: str | None = None
    device: str | None = None
    dtype: str | None = None
    policy: str | None = None
    rollouts: "RolloutSettings | None" = None
    candidates: "CandidateSettings | None" = None


def annotator(models: Models, settings: "AnnotateSettings", quiet: bool) -> "Annotator":
    """Load the models: here, or in a worker's process.

    Args:
        models: Their names.
        settings: What is annotated.
        quiet: Whether the loading says nothing.
    """
    from langchain_saffron.training.annotator import Annotator
    from langchain_saffron.training.candidates import Candidates
    from langchain_saffron.training.rollouts import Rollouts

    quieten(keep_progress=not quiet, keep_warnings=not quiet)
    prm = _load(models)
    if models.policy is None:
        return Annotator(prm, settings)
    model, own = _policy(models, models.policy)
    if models.candidates is not None:
        return Annotator(prm, settings, candidates=Candidates(model, own, prm, models.candidates))
    return Annotator(prm, settings, rollouts=Rollouts(model, own, prm, models.rollouts))


@contextmanager
def over_ray(load: "Callable[[], Annotator]", workers: int, device: str | None) -> Iterator[Any]:
    """Workers in the Ray that `RAY_ADDRESS` names, or in one of this machine's own.

    Args:
        load: Loads the models in a worker's process.
        workers: How many.
        device: Where their models run.
    """
    import ray

    from langchain_saffron.runtime.ray_cluster import start_ray
    from langchain_saffron.training.ray_annotator import RayAnnotator

    # Ray tells on stdout what its processes say
    with redirect_stdout(sys.stderr):
        start_ray(os.environ.get("RAY_ADDRESS") or "local")
        try:
            with RayAnnotator(load, workers, device) as made:
                yield made
        finally:
            ray.shutdown()


def _tokenizer(name: str) -> Any:
    from langchain_saffron.embedded import named_part
    from langchain_saffron.models.loading import load_tokenizer

    return load_tokenizer(named_part(name, "policy"), "model to be trained")


def _load(models: Models) -> Any:
    from langchain_saffron.models.prm import ProcessRewardModel
    from langchain_saffron.models.text_prm import TextRewardModel
    from langchain_saffron.runtime.devices import default_device, default_dtype

    if (function := named_function("prm", models.prm)) is not None:
        if models.tokenizer is None:
            raise SettingsError("prm: a function needs --tokenizer, that of the model to be trained")
        return ProcessRewardModel.from_function(function, _tokenizer(models.tokenizer), models.prm)
    device = models.device or default_device()
    prm = ProcessRewardModel.from_pretrained(
        models.prm,
        guard_prompt(models.guard),
        device,
        models.dtype or default_dtype(device),
        safe=models.safe,
        unsafe=models.unsafe,
    )
    return prm if models.tokenizer is None else TextRewardModel(prm, _tokenizer(models.tokenizer))


def _policy(models: Models, policy: str) -> tuple[Any, Any]:
    """The policy and its tokenizer."""
    from langchain_saffron.embedded import named_part
    from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
    from langchain_saffron.runtime.devices import default_device, default_dtype

    source = named_part(policy, "policy")
    device = models.device or default_device()
    loaded = load_causal_lm(source, "policy", device=device, dtype=models.dtype or default_dtype(device))
    return loaded, load_tokenizer(source, "policy")
