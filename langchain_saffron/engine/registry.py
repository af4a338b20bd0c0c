"""Engines shared by all who ask for the same models: weights are loaded once, at first use."""

import json
import threading
import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch

from langchain_saffron.engine.engine import SaffronEngine
from langchain_saffron.models.fingerprint import file_stamp
from langchain_saffron.runtime.files import local_path
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

    def engine(self, spec: dict[str, Any], key: Hashable) -> SaffronEngine:
        """The engine of a specification, loaded now or earlier."""
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
        **spec: The arguments. Plain values are compared by value, directories by place and content, loaded objects by
            identity.

    Raises:
        ModelLoadError: As `from_pretrained`.
    """
    return _registry.engine(spec, spec_key({name: source_key(value) for name, value in spec.items()}))


def spec_key(spec: dict[str, Any]) -> Hashable:
    """Equal for arguments that ask for the same, whatever form they have; changes with what is changed in place."""
    return tuple((name, _key(spec[name])) for name in sorted(spec))


def source_key(value: Any) -> Any:
    """A local file or directory as its absolute path and a stamp of what is in it now; anything else as it is.

    Training once more into the same directory makes another model of it.
    """
    if isinstance(value, str | Path) and str(value):
        path = local_path(value)
        try:
            if path.exists():
                return f"{path.resolve()}@{file_stamp(path)}"
        except OSError:
            # no name of a file; whoever loads it says so
            pass
        return str(value)
    return value


def _key(value: Any) -> Hashable:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return ("list", *map(_key, value))
    if isinstance(value, dict):
        return ("dict", *sorted(((repr(key), _key(item)) for key, item in value.items()), key=lambda pair: pair[0]))
    if not isinstance(value, torch.nn.Module) and not isinstance(value, type) and hasattr(value, "to_dict"):
        return type(value).__name__, json.dumps(value.to_dict(), sort_keys=True, default=str)
    return type(value).__name__, id(value)
