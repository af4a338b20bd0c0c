"""The methods that are compared: no defence, the paper's baselines, Saffron, and what a user's code adds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.runtime.registry import Registry
from langchain_saffron.settings import SEARCHES, SearchSettings


@dataclass(frozen=True)
class Method:
    """A way to decode.

    Attributes:
        name: What tables call it.
        settings: How it searches, all but the seed.
        sampled: Whether chance takes part, so that several seeds say more than one.
    """

    name: str
    settings: SearchSettings
    sampled: bool = False


@dataclass(frozen=True)
class Family:
    """Methods that differ in their width: samples for Best-of-N, shares for Rebase, candidates for DeAL, beams.

    Attributes:
        search: What they search by.
        fixed: Fields of `SearchSettings` that make the family what it is.
    """

    search: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_width(self) -> bool:
        """Whether a width changes anything; plain decoding has none."""
        return self.search not in ("greedy", "sample")


METHODS: Registry[Family] = Registry(
    "method",
    {
        "none": Family("sample"),
        "greedy": Family("greedy"),
        "best-of-n": Family("best_of_n"),
        "rebase": Family("rebase"),
        "deal": Family("deal", fixed={"lookahead": 4}),
        "saffron": Family("saffron"),
        "saffron-step-back": Family("saffron", fixed={"step_back": True}),
        "saffron-auto": Family("saffron", fixed={"adaptive": True, "step_back": True}),
        "saffron-verify": Family("saffron", fixed={"verify": "prm"}),
        "saffron-auto-verify": Family("saffron", fixed={"adaptive": True, "step_back": True, "verify": "prm"}),
        "saffron-paper": Family("saffron", fixed={"ranking": "paper"}),
        "saffron-strict-mask": Family("saffron", fixed={"mask": "strict"}),
        "saffron-soft-mask": Family("saffron", fixed={"mask": "soft"}),
        "saffron-no-mask": Family("saffron", fixed={"mask": "off"}),
    },
)


def register_method(name: str, search: str, **fixed: Any) -> None:
    """Add a family of methods, which `NAME:WIDTH` then means in every evaluation.

    A search of `register_search` needs no such call: it is a family by its own name already.

    Args:
        name: Of the family.
        search: What it searches by.
        **fixed: Fields of `SearchSettings`.

    Raises:
        SettingsError: A setting cannot work.
    """
    SearchSettings(search=search, **fixed)
    METHODS[name] = Family(search, fixed)


def make_method(name: str, width: int = 1, **common: object) -> Method:
    """A method of a family.

    Args:
        name: One of `METHODS`, or a registered search.
        width: Its hyperparameter.
        **common: Fields of `SearchSettings` that all methods of a comparison share, such as `max_tokens`.

    Raises:
        SettingsError: The family is not known, or a setting cannot work.
    """
    family = find_family(name)
    settings = SearchSettings(search=family.search, width=width, **{**common, **family.fixed})
    title = f"{name}-{width}" if family.has_width else name
    return Method(title, settings, SEARCHES[family.search].sampled)


def parse_method(text: str, **common: Any) -> Method:
    """`NAME` or `NAME:WIDTH`.

    Raises:
        SettingsError: The name is not known, or the width is no number.
    """
    name, colon, width = text.partition(":")
    if colon and not width.isdecimal():
        raise SettingsError(f"method: {text!r}: the width has to be a whole number, as in saffron:16")
    return make_method(name, int(width) if colon else 1, **common)


def find_family(name: str) -> Family:
    """The family of that name.

    Raises:
        SettingsError: It is not known.
    """
    if name not in METHODS and name in SEARCHES:
        return Family(name)
    return METHODS[name]
