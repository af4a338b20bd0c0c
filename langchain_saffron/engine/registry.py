"""Engines shared by all who ask for the same models: weights are loaded once, at first use."""

import threading
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from langchain_saffron.engine.engine import SaffronEngine
from langchain_saffron.runtime.forks import renew_after_fork


class _Registry:
    """Engines by what they were loaded from.

    Weights are loaded by one thread, and the others that want the same wait for it. An engine that was closed is none
    any more. The engine used last stays loaded even if the chat model that asked for it was a passing one, as under
    `with_config`.
    """

    def __init__(self) -> None:
        self._engines: weakref.WeakValueDictionary[Hashable, SaffronEngine] = weakref.WeakValueDictionary()
        self._last: SaffronEngine | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """In a forked child: a thread of the parent may hold the locks."""
        self._lock = threading.Lock()
        self._loading: dict[Hashable, threading.Lock] = {}

    def engine(self, spec: dict[str, Any]) -> SaffronEngine:
        """The engine of a specification, loaded now or earlier."""
        key = tuple(sorted((name, _key(value)) for name, value in spec.items()))
        with self._lock:
            engine = self._alive(key)
            guard = self._loading.setdefault(key, threading.Lock())
        if engine is None:
            with guard:
                with self._lock:
                    engine = self._alive(key)
                if engine is None:
                    engine = SaffronEngine.from_pretrained(**spec)
                    # objects are told apart by their ids, which hold only as long as the objects live
                    engine.loaded_from = spec
                    with self._lock:
                        self._engines[key] = engine
        with self._lock:
            self._last = engine
            self._loading.pop(key, None)
        return engine

    def _alive(self, key: Hashable) -> SaffronEngine | None:
        engine = self._engines.get(key)
        return None if engine is None or engine.closed else engine


_registry = _Registry()


def shared_engine(**spec: Any) -> SaffronEngine:
    """The engine for these arguments of `SaffronEngine.from_pretrained`, loaded now or earlier.

    Args:
        **spec: The arguments. Strings and paths are compared by value, loaded objects by identity.

    Raises:
        ModelLoadError: As `from_pretrained`.
    """
    return _registry.engine(spec)


def _key(value: Any) -> Hashable:
    if value is None or isinstance(value, str | int | float | bool | Path):
        return (type(value).__name__, str(value))
    return (type(value).__name__, id(value))
