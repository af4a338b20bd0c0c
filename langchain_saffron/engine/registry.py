"""Engines shared by all who ask for the same models: weights are loaded once, at first use."""

import threading
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from langchain_saffron.engine.engine import SaffronEngine

_lock = threading.Lock()
_loading: dict[Hashable, threading.Lock] = {}
_engines: "weakref.WeakValueDictionary[Hashable, SaffronEngine]" = weakref.WeakValueDictionary()
# the engine used last stays loaded even if the chat model that asked for it was a passing one, as under `with_config`
_recent: list[SaffronEngine] = []


def shared_engine(**spec: Any) -> SaffronEngine:
    """The engine for these arguments of `SaffronEngine.from_pretrained`, loaded now or earlier.

    Args:
        **spec: The arguments. Strings and paths are compared by value, loaded objects by identity.

    Raises:
        ModelLoadError: As `from_pretrained`.
    """
    key = tuple(sorted((name, _key(value)) for name, value in spec.items()))
    with _lock:
        engine = _engines.get(key)
        guard = _loading.setdefault(key, threading.Lock())
    if engine is None:
        # one thread loads, the others that want the same wait for it
        with guard:
            with _lock:
                engine = _engines.get(key)
            if engine is None:
                engine = SaffronEngine.from_pretrained(**spec)
                with _lock:
                    _engines[key] = engine
    with _lock:
        _recent[:] = [engine]
        _loading.pop(key, None)
    return engine


def _key(value: Any) -> Hashable:
    if value is None or isinstance(value, str | int | float | bool | Path):
        return (type(value).__name__, str(value))
    return (type(value).__name__, id(value))
