"""The KV cache: one forest of token tries over one pool of slots for each model."""

from langchain_saffron.cache.forest import TokenForest
from langchain_saffron.cache.pool import KeyValuePool
from langchain_saffron.cache.visibility import LayerMasks, Visibility, visible_rows

__all__ = ["KeyValuePool", "LayerMasks", "TokenForest", "Visibility", "visible_rows"]
