"""The models inside the package: their names and weights, and the word that some are no real ones."""

import os
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

_PACKAGE = Path(__file__).parent
KITCHEN_NAME = "kitchen"
KITCHEN = _PACKAGE / "kitchen" / "weights"
SMOLLM2_NAME = "smollm2"
SMOLLM2 = _PACKAGE / "smollm2" / "weights"
# how much alike two names are where one may be meant for the other: "hard-kitchen" is still near "kitchen"
_NEAR = 0.7

_told = False


@dataclass(frozen=True)
class World:
    """Models of the package that belong together and go by one name, wherever a model is named.

    Attributes:
        name: That name.
        policy: Directory of the policy.
        reward_model: Of its MRM.
        process_reward_model: Of its PRM.
    """

    name: str
    policy: Path
    reward_model: Path
    process_reward_model: Path


WORLDS = {
    world.name: world
    for world in (
        World(KITCHEN_NAME, KITCHEN / "policy", KITCHEN / "mrm", KITCHEN / "prm"),
        World(SMOLLM2_NAME, SMOLLM2 / "policy", SMOLLM2 / "mrm", SMOLLM2 / "guard"),
    )
}


def find_world(model: Any) -> World | None:
    """The world that a policy is named by, if it is: `None` stands for the kitchen."""
    if model is None:
        return WORLDS[KITCHEN_NAME]
    return WORLDS.get(model) if isinstance(model, str) else None


def near_world(model: Any) -> str | None:
    """The embedded world whose name a policy's may be meant for, by its letters; `None` for paths and hub ids."""
    if not isinstance(model, str) or "/" in model or os.path.exists(os.path.expanduser(model)):
        return None
    return next(iter(get_close_matches(model.strip().lower(), WORLDS, 1, _NEAR)), None)


def named_part(source: Any, part: Literal["policy", "reward_model", "process_reward_model"]) -> Any:
    """The directory of a world's model where `source` is the world's name; anything else as it is."""
    world = WORLDS.get(source) if isinstance(source, str) else None
    return source if world is None else getattr(world, part)


def warn_of_kitchen() -> None:
    """Say once that the toy models answer, to whoever named no model."""
    global _told
    if not _told:
        _told = True
        warnings.warn(
            "no model= was given: answers come from the small embedded kitchen models, which only know recipes. "
            "Pass model= and reward_model= for real use, or model='smollm2' for a small real model.",
            stacklevel=3,
        )
