"""Safe decoding for LangChain: a tree search guided by a multifurcation reward model."""

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_saffron.chat_models import ChatSaffron
    from langchain_saffron.engine import SaffronEngine, SearchResult, SearchStats
    from langchain_saffron.errors import SaffronError
    from langchain_saffron.llms import SaffronLLM
    from langchain_saffron.models.mrm import MultifurcationRewardModel
    from langchain_saffron.models.prm import ProcessRewardModel
    from langchain_saffron.settings import ComputeBudget, SearchSettings

_HOME = {
    "ChatSaffron": "chat_models",
    "ComputeBudget": "settings",
    "MultifurcationRewardModel": "models.mrm",
    "ProcessRewardModel": "models.prm",
    "SaffronEngine": "engine",
    "SaffronError": "errors",
    "SaffronLLM": "llms",
    "SearchResult": "engine",
    "SearchSettings": "settings",
    "SearchStats": "engine",
}

__all__ = [
    "ChatSaffron",
    "ComputeBudget",
    "MultifurcationRewardModel",
    "ProcessRewardModel",
    "SaffronEngine",
    "SaffronError",
    "SaffronLLM",
    "SearchResult",
    "SearchSettings",
    "SearchStats",
]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: `saffron --help` and settings should not wait for them
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # imports make hardly any garbage, and looking for it while they do would take a fifth of their time
    collects = gc.isenabled()
    gc.disable()
    try:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    finally:
        if collects:
            gc.enable()


def __dir__() -> list[str]:
    return __all__
