"""What a model's `forward` calls its KV cache: transformers renamed the argument in 5.24."""

import inspect
from typing import Any

_NAMES = ("cache", "past_key_values")


def cache_argument(model: Any) -> str | None:
    """The name under which `model` takes a cache; `None` if it takes none."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in _NAMES if name in parameters), None)
