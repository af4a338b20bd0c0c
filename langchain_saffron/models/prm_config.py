"""How a process reward model is asked: by what its caller, its directory or its name says."""

from pathlib import Path

import torch

from langchain_saffron.errors import ModelLoadError, SettingsError
from langchain_saffron.models.source import ModelSource
from langchain_saffron.runtime.files import local_path, read_json
from langchain_saffron.templates.guard_prompt import PRESETS, GuardPrompt, preset_of
from langchain_saffron.templates.reward_template import RewardTemplate

CONFIG_FILE = "prm_config.json"
# of that file beside an adapter
FORMAT = 1


def model_name(model: ModelSource) -> str:
    """A model's name or path; empty for a loaded one that does not say."""
    return getattr(model, "name_or_path", "") if isinstance(model, torch.nn.Module) else str(model)


def find_guard_prompt(model: ModelSource, guard: str | GuardPrompt | None) -> GuardPrompt:
    """The question to a guard.

    Args:
        model: The guard.
        guard: The question, or a preset's name; `None` takes what `prm_config.json` in its directory says, else the
            preset that its name suggests.

    Raises:
        ModelLoadError: The file in its directory is damaged.
        SettingsError: There is no such preset, or none is suggested.
    """
    if isinstance(guard, GuardPrompt):
        return guard
    if guard is not None:
        return PRESETS[guard]
    name = model_name(model)
    stored = local_path(name) / CONFIG_FILE
    if name and stored.is_file():
        return GuardPrompt.of_file(stored)
    if (known := preset_of(name)) is not None:
        return known
    raise SettingsError(
        f"guard: how is {name or 'this model'} asked? No preset goes by its name; choose one "
        f"({', '.join(map(repr, PRESETS))}; 'chat' is its own chat template with the answers safe and unsafe), or pass "
        "a GuardPrompt"
    )


def stored_template(directory: Path) -> RewardTemplate | None:
    """How `prm_config.json` beside an adapter says that conversations are written; `None` where it does not.

    Raises:
        ModelLoadError: The file is damaged.
    """
    path = directory / CONFIG_FILE
    stored = read_json(path, FORMAT, ModelLoadError) or {}
    return RewardTemplate.of_record(stored.get("template"), path)
