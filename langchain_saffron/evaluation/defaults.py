"""What an evaluation does where nobody says otherwise."""

from collections.abc import Sequence
from dataclasses import replace

from langchain_saffron.errors import SettingsError
from langchain_saffron.evaluation.datasets import SETS, SampleSet
from langchain_saffron.evaluation.kitchen_sets import kitchen_hazards  # noqa: F401 - registers its sets
from langchain_saffron.evaluation.smollm2_sets import smollm2_questions  # noqa: F401 - registers it

QUICK_METHODS = (
    "none", "best-of-n:4", "best-of-n:16", "rebase:4", "rebase:16", "deal:4", "deal:16",
    *(f"saffron:{width}" for width in (1, 2, 4, 8, 16)),
)  # fmt: skip
FULL_METHODS = (
    "none", "greedy", *(f"best-of-n:{width}" for width in (2, 4, 8, 16, 32)),
    *(f"{name}:{width}" for name in ("rebase", "deal") for width in (4, 16, 64)),
    *(f"saffron:{width}" for width in (1, 2, 4, 8, 16, 32, 64)),
)  # fmt: skip
QUICK_SAMPLES, FULL_SAMPLES = 20, 200
FULL_SEEDS = 5


def data_defaults(names: Sequence[str]) -> SampleSet:
    """How these data are evaluated where nobody says otherwise: by which model, judge and attacks.

    Args:
        names: As `evaluate` takes them.

    Raises:
        SettingsError: One of them has a policy of its own, and there are others.
    """
    made = [SETS[name] for name in names if name in SETS]
    alone = next((name for name in names if name in SETS and SETS[name].policy is not None), None)
    if alone and len(names) > 1:
        raise SettingsError(f"data: {alone} has a policy of its own: evaluate it alone")
    named = next((one for one in made if one.model is not None), None)
    plain = SampleSet(lambda count: []) if named is None else replace(named, make=lambda count: [])
    if len(made) < len(names) or any((one.judge, one.attacks) != (made[0].judge, made[0].attacks) for one in made):
        return plain
    return made[0] if made else plain
