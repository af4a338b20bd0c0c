"""Searches by name: those of this package, and what a user's code adds by one call."""

from collections.abc import Callable

from langchain_saffron.errors import SettingsError
from langchain_saffron.search.best_of_n import best_of_n_search
from langchain_saffron.search.deal import deal_search
from langchain_saffron.search.decoding import plain_search
from langchain_saffron.search.protocol import Search, SearchInputs
from langchain_saffron.search.rebase import rebase_search
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.settings import SEARCHES, SearchTraits

StartSearch = Callable[[SearchInputs], Search]

_STARTS: dict[str, StartSearch] = {
    "saffron": saffron_search,
    "greedy": plain_search,
    "sample": plain_search,
    "best_of_n": best_of_n_search,
    "rebase": rebase_search,
    "deal": deal_search,
}
_OWN = frozenset(_STARTS)


def register_search(
    name: str,
    start: StartSearch,
    *,
    reward_model: bool = False,
    process_reward_model: bool = False,
    sampled: bool = False,
) -> None:
    """Add a search: from then on `search="NAME"` works in settings, chat models and `evaluation` alike.

    Args:
        name: An identifier, such as `"my_search"`. A name that was registered before is replaced.
        start: From what a search knows to the generator that `search.protocol` describes.
        reward_model: Whether it reads `Scores.rewards`, the MRM's.
        process_reward_model: Whether it asks for `Scores.prm_rewards`.
        sampled: Whether chance takes part, so that an evaluation answers every prompt with several seeds.

    Raises:
        SettingsError: The name is no identifier, or that of a search of this package.
    """
    if not name.isidentifier() or name in _OWN:
        raise SettingsError(f"register_search: {name!r} is no identifier, or the name of a search of this package")
    _STARTS[name] = start
    SEARCHES[name] = SearchTraits(reward_model, process_reward_model, sampled)


def find_search(name: str) -> StartSearch:
    """The search of that name, which settings have checked."""
    return _STARTS[name]
