"""The attention of a tree: every request's rows read their own branch, the shared prefix in place.

One mask over everybody's slots grows with the square of what is running. Here all rows go through the model's
linear layers together, and each request then attends to what it can see: the prefix that all its rows share is
read where it lies, and only the short tails behind it are masked. With grouped queries, the query heads of a
group are folded into the query axis, so that keys and values are never repeated.

Names of tensors end in their shapes:

    H  query heads, K · Q           R  rows: the tokens of a forward     S  slots of the pool
    K  kv heads                     F  rows of folded heads, Q · R       V  visible slots, as they were read
    Q  queries_per_kv, H / K        G  groups that attend together       D  size of a head
"""

import threading
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from langchain_saffron.cache.attention_plan import AttentionPlan, Batch, Group
from langchain_saffron.cache.layer_store import LayerStore
from langchain_saffron.cache.static_plan import StaticPlan

NAME = "saffron_tree"
# a group with more rows is a prompt being read: there the fused kernel is worth copying scattered keys together
FUSED_ROWS = 48


_active = threading.local()


class activate:
    """Within this context, the current thread's forwards attend by `plan`."""

    def __init__(self, plan: AttentionPlan | StaticPlan) -> None:
        self._plan = plan

    def __enter__(self) -> None:
        _active.plan = self._plan

    def __exit__(self, *error: object) -> None:
        _active.plan = None


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that transformers calls; without an active plan, its own `sdpa`.

    Args:
        module: The attention layer.
        query: [1, heads, rows, size].
        key: The new keys, which the pool has taken already.
        value: The new values, likewise.
        attention_mask: Unused: the plan knows what a row sees.
        scaling: Factor of the scores; 1 / √size by default.
        softcap: Bound of the scores, `softcap · tanh(score / softcap)` (Gemma 2).
        s_aux: A further score a head that takes mass and gives nothing (attention sinks, gpt-oss).
        **kwargs: What else a model passes; a position bias is refused.

    Returns:
        [1, rows, heads, size], and no weights.
    """
    plan = active_plan()
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if plan is None:
        if softcap is None and s_aux is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        each = [
            _attend(q, LayerStore(k, v), Group(slice(0, 0), (0, 0), (0, k.shape[1]), m), scaling, softcap, s_aux)
            for q, k, v, m in zip(query, key, value, _dense_masks(query, key, attention_mask), strict=True)
        ]
        return torch.stack(each).transpose(1, 2).contiguous(), None
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("a position bias depends on more than depth")
    layer: int = module.layer_idx  # type: ignore[assignment]
    return attend(plan, layer, query[0], query.dtype, scaling, softcap, s_aux)[None], None


def active_plan() -> AttentionPlan | StaticPlan | None:
    """The plan by which the current thread's forwards attend."""
    plan: AttentionPlan | StaticPlan | None = getattr(_active, "plan", None)
    return plan


def attend(
    plan: AttentionPlan | StaticPlan,
    layer: int,
    query_HRD: torch.Tensor,
    dtype: torch.dtype,
    scaling: float,
    softcap: float | None = None,
    sinks_H: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the rows of a forward attend to in one layer.

    Args:
        plan: What they read.
        layer: Which layer.
        query_HRD: [heads, rows, size].
        dtype: Of what is returned.
        scaling: Factor of the scores.
        softcap: Their bound.
        sinks_H: A further score a head, as `s_aux`.

    Returns:
        [rows, heads, size].
    """
    store = plan.pool.layer(layer)
    # the pool may hold a narrower type than the model computes in
    query_HRD = query_HRD.to(store.keys.dtype)
    if isinstance(plan, StaticPlan):
        batch = plan.of_layer(layer)
        attended = _attend_batch(query_HRD.index_select(1, batch.rows), store, batch, scaling, softcap, sinks_H)
        return attended.index_select(1, plan.places).transpose(0, 1).contiguous().to(dtype)
    heads, rows, _ = query_HRD.shape
    groups = plan.of_layer(layer, query_HRD.device)
    if rows == 1 and isinstance(groups[0], Group):
        return _attend(query_HRD, store, groups[0], scaling, softcap, sinks_H).transpose(0, 1).to(dtype)
    out = query_HRD.new_empty(rows, heads, store.values.shape[-1], dtype=dtype)
    for group in groups:
        own = query_HRD[:, group.rows]
        if isinstance(group, Batch):
            # places that padding repeats get the same once more
            out[group.rows] = _attend_batch(own, store, group, scaling, softcap, sinks_H).transpose(0, 1).to(dtype)
        else:
            out[group.rows].copy_(_attend(own, store, group, scaling, softcap, sinks_H).transpose(0, 1))
    return out


def _dense_masks(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Additive masks [batch, rows, keys] of a plain forward; transformers leaves a merely causal one out."""
    batch, _, rows, _ = query.shape
    if mask is None:
        mask = torch.ones(rows, key.shape[2], dtype=torch.bool, device=query.device).tril(key.shape[2] - rows)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, -torch.inf)
    return mask.expand(batch, 1, rows, -1)[:, 0, :, : key.shape[2]] if mask.dim() == 4 else mask.expand(batch, rows, -1)


def _attend(
    query_HRD: torch.Tensor,
    store: LayerStore,
    group: Group,
    scaling: float,
    softcap: float | None,
    sinks_H: torch.Tensor | None,
) -> torch.Tensor:
    """One group's attention: [heads, rows, size]."""
    heads, rows, size = query_HRD.shape
    kv_heads = store.keys.shape[0]
    queries_per_kv = heads // kv_heads
    group = group.even(store.keys.shape[1]) if store.upright is not None else group
    parts = group.parts
    plain = softcap is None and sinks_H is None and store.upright is None
    if plain and (rows >= FUSED_ROWS or _fuses(query_HRD, parts)):
        key_KVD, value_KVD = (_together(numbers, parts) for numbers in (store.keys, store.values))
        # query heads that share keys become further rows
        fused = torch.nn.functional.scaled_dot_product_attention(
            query_HRD.reshape(1, kv_heads, queries_per_kv * rows, size),
            key_KVD[None],
            value_KVD[None],
            attn_mask=group.folded_mask(queries_per_kv),
            scale=scaling,
        )
        return fused.view(heads, rows, -1)
    query_KFD = (query_HRD if scaling == 1 else query_HRD * scaling).reshape(kv_heads, queries_per_kv * rows, size)
    products = [torch.bmm(query_KFD, store.transposed_keys(part)) for part in parts]
    scores_KFV = products[0] if len(parts) == 1 else torch.cat(products, dim=-1)
    mask = None if group.is_open else group.mask
    weights_KQRV = _weights(scores_KFV.view(kv_heads, queries_per_kv, rows, -1), mask, softcap, sinks_H)
    weights_KFV = weights_KQRV.to(store.values.dtype).reshape(kv_heads, queries_per_kv * rows, -1)
    if len(parts) == 1:
        return torch.bmm(weights_KFV, store.read(store.values, parts[0])).view(heads, rows, -1)
    sizes = [product.shape[-1] for product in products]
    attended = [
        torch.bmm(weights, store.read(store.values, part))
        for weights, part in zip(weights_KFV.split(sizes, -1), parts, strict=True)
    ]
    return (attended[0] + attended[1]).view(heads, rows, -1)


def _attend_batch(
    query_HRD: torch.Tensor,
    store: LayerStore,
    batch: Batch,
    scaling: float,
    softcap: float | None,
    sinks_H: torch.Tensor | None,
) -> torch.Tensor:
    """The same for several small groups at once, padded to the same size: [heads, all their rows, size]."""
    heads, _, size = query_HRD.shape
    kv_heads = store.keys.shape[0]
    queries_per_kv = heads // kv_heads
    groups, rows, visible = batch.mask.shape
    query_GKFD = (
        query_HRD.view(kv_heads, queries_per_kv, groups, rows, size)
        .permute(2, 0, 1, 3, 4)
        .reshape(groups, kv_heads, -1, size)
    )
    key_GKVD, value_GKVD = (
        store.read(numbers, batch.slots).view(kv_heads, groups, visible, -1).transpose(0, 1)
        for numbers in (store.keys, store.values)
    )
    # bfloat16 is rounded in the same places whether a group attends alone or among others
    if softcap is None and sinks_H is None and store.upright is None:
        attended_GKFD = torch.nn.functional.scaled_dot_product_attention(
            query_GKFD, key_GKVD, value_GKVD, attn_mask=batch.folded_mask(queries_per_kv), scale=scaling
        )
    else:
        scores_GKFV = torch.matmul(query_GKFD * scaling, key_GKVD.transpose(2, 3))
        scores_GKQRV = scores_GKFV.view(groups, kv_heads, queries_per_kv, rows, visible)
        weights_GKQRV = _weights(scores_GKQRV, batch.mask[:, None, None], softcap, sinks_H)
        weights_GKFV = weights_GKQRV.to(store.values.dtype).reshape(groups, kv_heads, -1, visible)
        attended_GKFD = torch.matmul(weights_GKFV, value_GKVD)
    attended_GKQRD = attended_GKFD.view(groups, kv_heads, queries_per_kv, rows, -1)
    return attended_GKQRD.permute(1, 2, 0, 3, 4).reshape(heads, groups * rows, -1)


def _weights(
    scores_KQRV: torch.Tensor, mask: torch.Tensor | None, softcap: float | None, sinks_H: torch.Tensor | None
) -> torch.Tensor:
    """The softmax of [..., kv heads, queries a kv head, rows, visible], of whose last columns `mask` speaks."""
    if softcap is not None:
        scores_KQRV = softcap * torch.tanh(scores_KQRV / softcap)
    if mask is not None:
        visible, masked = scores_KQRV.shape[-1], mask.shape[-1]
        scores_KQRV.narrow(-1, visible - masked, masked).add_(mask)
    if sinks_H is not None:
        kv_heads, queries_per_kv, rows = scores_KQRV.shape[-4:-1]
        shape = (*scores_KQRV.shape[:-4], kv_heads, queries_per_kv, rows, 1)
        sinks_KQR1 = sinks_H.view(kv_heads, queries_per_kv, 1, 1).expand(shape)
        scores_KQRV = torch.cat([scores_KQRV, sinks_KQR1.to(scores_KQRV.dtype)], dim=-1)
    # the kernel sums in float32 whatever the dtype
    weights_KQRV = torch.softmax(scores_KQRV, dim=-1)
    return weights_KQRV if sinks_H is None else weights_KQRV[..., :-1]


def _fuses(query: torch.Tensor, parts: list[slice | torch.Tensor]) -> bool:
    """Whether the fused kernel beats two products: on a CPU, in the narrow types, for the fewest rows only."""
    return len(parts) == 1 and (query.device.type != "cpu" or query.dtype == torch.float32 or query.shape[1] <= 4)


def _together(numbers: torch.Tensor, parts: list[slice | torch.Tensor]) -> torch.Tensor:
    chunks = [LayerStore.read(numbers, part) for part in parts]
    return chunks[0] if len(parts) == 1 else torch.cat(chunks, dim=1)


ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention)
# outside a plan the model behaves as with sdpa, masks included: a loaded model stays its owner's to use
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
