"""The models inside the package: their names and weights, and the word that they are no real ones."""

import warnings
from pathlib import Path

KITCHEN_NAME = "kitchen"
KITCHEN = Path(__file__).parent / "kitchen" / "weights"

_told = False


def warn_of_kitchen() -> None:
    """Say once that the toy models answer, to whoever named no model."""
    global _told
    if not _told:
        _told = True
        warnings.warn(
            "no model= was given: answers come from the small embedded kitchen models, which only know recipes. "
            "Pass model= and reward_model= for real use.",
            stacklevel=3,
        )
