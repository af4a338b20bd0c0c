"""What an evaluation loads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_saffron.embedded import find_world
from langchain_saffron.engine import SaffronEngine
from langchain_saffron.errors import SettingsError
from langchain_saffron.models.guard_function import function_name
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.quantization import check_quantization
from langchain_saffron.runtime.devices import default_device, default_dtype
from langchain_saffron.settings import Quantization
from langchain_saffron.templates.guard_prompt import GuardPrompt


@dataclass(frozen=True)
class Models:
    """What a run loads, in the words of `SaffronEngine.from_pretrained`.

    Attributes:
        model: The policy; `None` for the embedded kitchen's, or the one that a dataset is for.
        reward_model: The MRM.
        reward_base: Its base, where it names none that can be found.
        process_reward_model: What Best-of-N, Rebase and DeAL ask: a guard's or classifier's directory or hub id, a
            loaded `ProcessRewardModel`, or a function as `ProcessRewardModel.from_function` takes it.
        device: `None` for the accelerator if there is one.
        dtype: `None` for float32 on a CPU, else the checkpoint's own.
        guard: How the process reward model is asked, as in `ProcessRewardModel.from_pretrained`.
        safe: Its token or label that means safe.
        unsafe: The one that means unsafe.
        quantization: Of the weights of policy and MRM.
    """

    model: Any = None
    reward_model: Any = None
    reward_base: Any = None
    process_reward_model: Any = None
    device: str | None = None
    dtype: str | None = None
    guard: str | GuardPrompt | None = None
    safe: str | int | None = None
    unsafe: str | int | None = None
    quantization: Quantization | None = None

    @property
    def prm_name(self) -> str:
        """What records call the process reward model; empty for that of the data."""
        prm = self.process_reward_model
        if isinstance(prm, ProcessRewardModel):
            return prm.name
        return function_name(prm) if callable(prm) else str(prm or "")

    @property
    def asked(self) -> dict[str, str | int]:
        """How it is asked, where that was said."""
        prompt = self.guard.model_dump_json() if isinstance(self.guard, GuardPrompt) else self.guard
        said = {"guard": prompt, "safe": self.safe, "unsafe": self.unsafe}
        return {name: value for name, value in said.items() if value is not None}

    @property
    def quantized(self) -> dict[str, str]:
        """How weights are quantised, where they are."""
        return {} if self.quantization is None else {"quantization": self.quantization}

    def load(self, policy: Callable[[str, str], Any] | None = None) -> SaffronEngine:
        """The engine.

        Args:
            policy: Makes the policy from device and dtype, where no model is named.
        """
        place = self.device or default_device()
        kind = self.dtype or default_dtype(place)
        check_quantization(self.quantization, place, kind)
        model, mrm, prm = self.model, self.reward_model, self.process_reward_model
        if (world := find_world(model)) is not None:
            mrm, prm = mrm or str(world.reward_model), prm or str(world.process_reward_model)
        if model is None and policy is not None:
            model = policy(place, kind)
        if self.asked and prm is not None:
            if not isinstance(prm, str | Path):
                raise SettingsError(f"{next(iter(self.asked))}: a loaded model or a function is asked as it is")
            prm = ProcessRewardModel.from_pretrained(prm, self.guard, place, kind, safe=self.safe, unsafe=self.unsafe)
        return SaffronEngine.from_pretrained(
            model, mrm, self.reward_base, prm, device=place, dtype=kind, quantization=self.quantization
        )
