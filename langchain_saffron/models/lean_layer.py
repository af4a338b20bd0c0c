"""One layer of a Llama and its like in as few operations as it takes."""

from typing import Any

import torch

from langchain_saffron.cache.attention import attend
from langchain_saffron.cache.attention_plan import AttentionPlan
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.cache.static_plan import StaticPlan
from langchain_saffron.models.lean_head_norm import LeanHeadNorm
from langchain_saffron.models.lean_norm import LeanNorm
from langchain_saffron.models.lean_product import lean_product
from langchain_saffron.models.lean_rotation import LeanRotation
from langchain_saffron.models.packed_product import join

# families whose forwards are known to be what is computed here: normalise, attend, add, normalise, gate, add
FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
_NORMS = ("input_layernorm", "post_attention_layernorm")
_HEADS, _GATES = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
_PARTS = {"self_attn": "Attention", "mlp": "MLP", **dict.fromkeys(_NORMS, "RMSNorm")}


class LeanLayer:
    """A decoder layer over rows of the cache: rows [rows, width] in, rows out.

    Attributes:
        module: The layer that it computes.
        heads: Of queries.
        kv_heads: Of keys, and of values.
        size: Of a head.
        scaling: Factor of the scores.
    """

    def __init__(self, module: Any) -> None:
        """Take a layer that `knows` said yes to."""
        attention, mlp = module.self_attn, module.mlp
        self.module = module
        self._index: int = attention.layer_idx
        self.size: int = attention.head_dim
        self.heads = attention.q_proj.out_features // self.size
        self.kv_heads = attention.k_proj.out_features // self.size
        self.scaling: float = attention.scaling
        self._kinds = [self.heads, self.kv_heads, self.kv_heads]
        self._first, self._second = (LeanNorm(getattr(module, name)) for name in _NORMS)
        self._head_norm = None
        if hasattr(attention, "q_norm"):
            self._head_norm = LeanHeadNorm(attention, self.heads, self.kv_heads)
        self._output, self._down = lean_product([attention.o_proj]), lean_product([mlp.down_proj])
        self._inner: int = mlp.gate_proj.out_features
        self._activation = mlp.act_fn
        self.take_products()

    def take_products(self) -> None:
        """Look at which of its linear layers are one product."""
        attention, mlp = self.module.self_attn, self.module.mlp
        self._heads_of = lean_product([getattr(attention, name) for name in _HEADS])
        self._gates_of = lean_product([getattr(mlp, name) for name in _GATES])

    def join(self) -> None:
        """Make products of packed layers that read the same rows; the model's layers are replaced."""
        join(self.module.self_attn, _HEADS)
        join(self.module.mlp, _GATES)
        self.take_products()

    @staticmethod
    def knows(module: Any) -> bool:
        """Whether a layer is of a kind that is computed here."""
        return is_of_family(module, "DecoderLayer") and all(
            is_of_family(module.get_submodule(name), kind) for name, kind in _PARTS.items()
        )

    def __call__(
        self, rows: torch.Tensor, rotation: LeanRotation, plan: AttentionPlan | StaticPlan, pool: KeyValuePool
    ) -> torch.Tensor:
        """The layer's output, [rows, width].

        Args:
            rows: Its input, which stays as it is.
            rotation: Of the rows.
            plan: What they read.
            pool: Takes their keys and values.
        """
        count = len(rows)
        heads_RHD = self._heads_of(self._first(rows)).view(count, -1, self.size)
        if self._head_norm is not None:
            self._head_norm(heads_RHD)
        heads_RHD = rotation.turn(heads_RHD)
        if pool.dtype is not None:
            heads_RHD = heads_RHD.to(pool.dtype)
        query_RHD, key_RKD, value_RKD = torch.split_with_sizes(heads_RHD, self._kinds, 1)
        pool.write(key_RKD.transpose(0, 1), value_RKD.transpose(0, 1), self._index)
        attended_RHD = attend(plan, self._index, query_RHD.transpose(0, 1), rows.dtype, 1.0)
        states = self._output(attended_RHD.reshape(count, -1)).add_(rows)
        gate, up = self._gates_of(self._second(states)).split_with_sizes([self._inner, self._inner], -1)
        return self._down(self._activation(gate).mul_(up)).add_(states)


def is_of_family(module: Any, kind: str) -> bool:
    """Whether a module is the very class of that kind in one of the families, and none that was derived from it."""
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    known = (f"transformers.models.{one}.modeling_{one}.{prefix}{kind}" for one, prefix in FAMILIES.items())
    return name in known
