"""The methods that are compared: no defence, the paper's baselines, and Saffron, all through one engine."""

from collections.abc import Callable
from dataclasses import dataclass

from langchain_saffron.errors import SettingsError
from langchain_saffron.settings import SearchSettings


@dataclass(frozen=True)
class Method:
    """A way to decode.

    Attributes:
        name: What tables call it.
        settings: How it searches, all but the seed.
        sampled: Whether chance takes part, so that several seeds say more than one.
        masked: Whether tokens that the MRM has never seen are masked.
    """

    name: str
    settings: SearchSettings
    sampled: bool = False
    masked: bool = True


# how wide a method is by default: samples for Best-of-N, shares for Rebase, candidates for DeAL, beams for Saffron
_MAKERS: dict[str, Callable[..., Method]] = {}


def _maker(name: str, *, search: str, sampled: bool = False, masked: bool = True, **fixed: object) -> None:
    def make(width: int, **common: object) -> Method:
        settings = SearchSettings(search=search, width=width, **{**common, **fixed})
        return Method(name if search in ("greedy", "sample") else f"{name}-{width}", settings, sampled, masked)

    _MAKERS[name] = make


_maker("none", search="sample", sampled=True)
_maker("greedy", search="greedy")
_maker("best-of-n", search="best_of_n", sampled=True)
_maker("rebase", search="rebase", sampled=True)
_maker("deal", search="deal", lookahead=4)
_maker("saffron", search="saffron")
_maker("saffron-paper", search="saffron", ranking="paper")
_maker("saffron-no-mask", search="saffron", masked=False)

FAMILIES = tuple(_MAKERS)


def make_method(name: str, width: int = 1, **common: object) -> Method:
    """A method of a family.

    Args:
        name: One of `FAMILIES`.
        width: Its hyperparameter.
        **common: Fields of `SearchSettings` that all methods of a comparison share, such as `max_tokens`.

    Raises:
        SettingsError: The family is not known, or a setting cannot work.
    """
    if name not in _MAKERS:
        raise SettingsError(f"the method {name!r} is not known: {', '.join(FAMILIES)}")
    return _MAKERS[name](width, **common)
