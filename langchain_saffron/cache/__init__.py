"""The KV cache: one forest of token tries over one pool of slots for each model."""

from langchain_saffron.cache.attention_mask import LayerMasks, Visibility, visible_rows
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.cache.prefix_forest import TokenForest

__all__ = ["KeyValuePool", "LayerMasks", "TokenForest", "Visibility", "visible_rows"]
