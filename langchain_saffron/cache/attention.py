"""The attention of a tree: every request's rows read their own branch, the shared prefix in place.

One mask over everybody's slots grows with the square of what is running. Here all rows go through the model's
linear layers together, and each request then attends to what it can see: the prefix that all its rows share is
read where it lies, and only the short tails behind it are masked. With grouped queries, the query heads of a
group are folded into the query axis, so that keys and values are never repeated.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from langchain_saffron.cache.forest import NO_PARENT, TokenForest
from langchain_saffron.cache.visibility import SPAN_SLACK

NAME = "saffron_tree"
# a group with more rows is a prompt being read: there the fused kernel is worth copying scattered keys together
FUSED_ROWS = 48


class Pool(Protocol):
    """What the attention needs of a pool."""

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, [kv heads, slots, size]."""


@dataclass(frozen=True)
class Group:
    """The rows of one request, and what they read.

    Attributes:
        rows: Their places in the forward.
        prefix: A span of slots that all of them see.
        tail: The other slots that any of them sees: a span, or an int64 tensor of slots.
        mask: Additive, 0 or -inf, [rows, tail]: which of them a row sees.
    """

    rows: slice
    prefix: tuple[int, int]
    tail: tuple[int, int] | torch.Tensor
    mask: torch.Tensor

    @cached_property
    def parts(self) -> list[slice | torch.Tensor]:
        """Prefix and tail as indices into the slots; one span where they lie side by side."""
        low, middle = self.prefix
        tail = slice(*self.tail) if isinstance(self.tail, tuple) else self.tail
        if low == middle:
            return [tail]
        if isinstance(self.tail, tuple) and self.tail[0] == middle:
            return [slice(low, self.tail[1])]
        return [slice(low, middle), tail]

    def folded_mask(self, heads: int) -> torch.Tensor:
        """The mask over prefix and tail, [heads · rows, prefix + tail], for query heads folded into the rows."""
        if "_folded" not in self.__dict__:
            whole = torch.nn.functional.pad(self.mask, (self.prefix[1] - self.prefix[0], 0))
            # worked out once for all layers
            self.__dict__["_folded"] = whole.repeat(heads, 1)
        folded: torch.Tensor = self.__dict__["_folded"]
        return folded


@dataclass
class Plan:
    """One forward's attention: the groups for every kind of layer, and the pool that they read."""

    pool: Pool
    groups: dict[str, list[Group]]
    kinds: list[str] = field(default_factory=list)

    def of_layer(self, index: int) -> list[Group]:
        """The groups of a layer."""
        return self.groups[self.kinds[index]]


_active = threading.local()


class activate:
    """Within this context, the current thread's forwards attend by `plan`."""

    def __init__(self, plan: Plan) -> None:
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
    plan: Plan | None = getattr(_active, "plan", None)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if plan is None:
        if softcap is None and s_aux is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        each = [
            _attend(q, k, v, Group(slice(0, 0), (0, 0), (0, k.shape[1]), m), scaling, softcap, s_aux)
            for q, k, v, m in zip(query, key, value, _dense_masks(query, key, attention_mask), strict=True)
        ]
        return torch.stack(each).transpose(1, 2).contiguous(), None
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("a position bias depends on more than depth")
    keys, values = plan.pool.layer(module.layer_idx)  # type: ignore[arg-type]
    groups = plan.of_layer(module.layer_idx)  # type: ignore[arg-type]
    out = query.new_empty(1, query.shape[2], query.shape[1], values.shape[-1])
    for group in groups:
        attended = _attend(query[0, :, group.rows], keys, values, group, scaling, softcap, s_aux)
        out[0, group.rows] = attended.transpose(0, 1)
    return out, None


def _dense_masks(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Additive masks [batch, rows, keys] of a plain forward; transformers leaves a merely causal one out."""
    batch, _, rows, _ = query.shape
    if mask is None:
        mask = torch.ones(rows, key.shape[2], dtype=torch.bool, device=query.device).tril(key.shape[2] - rows)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, -torch.inf)
    return mask.expand(batch, 1, rows, -1)[:, 0, :, : key.shape[2]] if mask.dim() == 4 else mask.expand(batch, rows, -1)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    group: Group,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One group's attention: [heads, rows, size]."""
    heads, rows, size = query.shape
    shared = keys.shape[0]
    parts = group.parts
    masked = group.mask.shape[1]
    if softcap is None and sinks is None and (rows >= FUSED_ROWS or _fuses(query, parts)):
        key, value = (_together(store, parts) for store in (keys, values))
        # query heads that share keys become further rows
        fused = torch.nn.functional.scaled_dot_product_attention(
            query.reshape(1, shared, heads // shared * rows, size),
            key[None],
            value[None],
            attn_mask=group.folded_mask(heads // shared),
            scale=scaling,
        )
        return fused.view(heads, rows, -1)
    folded = (query * scaling).reshape(shared, heads // shared * rows, size)
    products = [torch.matmul(folded, keys[:, part].transpose(1, 2)) for part in parts]
    scores = products[0] if len(parts) == 1 else torch.cat(products, dim=-1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    by_row = scores.view(shared, heads // shared, rows, -1)
    by_row[..., by_row.shape[-1] - masked :] += group.mask
    if sinks is not None:
        extra = sinks.view(shared, heads // shared, 1, 1).expand(-1, -1, rows, 1).to(by_row.dtype)
        by_row = torch.cat([by_row, extra], dim=-1)
    weights = torch.softmax(by_row, dim=-1, dtype=torch.promote_types(by_row.dtype, torch.float32))
    if sinks is not None:
        weights = weights[..., :-1]
    weights = weights.to(values.dtype).reshape(shared, heads // shared * rows, -1)
    sizes = [product.shape[-1] for product in products]
    attended = [torch.matmul(w, values[:, part]) for w, part in zip(weights.split(sizes, -1), parts, strict=True)]
    return (attended[0] if len(parts) == 1 else attended[0] + attended[1]).view(heads, rows, -1)


def _fuses(query: torch.Tensor, parts: list[slice | torch.Tensor]) -> bool:
    """Whether the fused kernel beats two products for few rows: on a CPU it is slow in the narrow types."""
    return len(parts) == 1 and (query.device.type != "cpu" or query.dtype == torch.float32)


def _together(store: torch.Tensor, parts: list[slice | torch.Tensor]) -> torch.Tensor:
    return store[:, parts[0]] if len(parts) == 1 else torch.cat([store[:, part] for part in parts], dim=1)


def plan_group(
    forest: TokenForest,
    slots: np.ndarray,
    start: int,
    window: int | None,
    to_mask: Callable[[np.ndarray], torch.Tensor],
) -> Group:
    """Work out what one request's rows read.

    Args:
        forest: Where they live.
        slots: int array [rows]: their slots, in any order.
        start: The place of the first of them in the forward.
        window: A sliding window in tokens, or `None`.
        to_mask: From allowed [rows, tail] to the additive mask.
    """
    index = {int(slot): i for i, slot in enumerate(slots)}
    parents = [forest.parent(int(slot)) for slot in slots]
    above = {
        i: forest.path(p) if p != NO_PARENT else np.empty(0, dtype=np.int64)
        for i, p in enumerate(parents)
        if p not in index
    }
    shared = _common(list(above.values()))
    oldest = 0
    if window is not None:
        deepest, shallowest = int(forest.depth[slots].max()), int(forest.depth[slots].min())
        # what the deepest row no longer sees cannot be read by all; what the shallowest misses, by nobody
        oldest = max(0, shallowest - window + 1)
        seen_by_all = shared[max(0, deepest - window + 1) :]
    else:
        seen_by_all = shared
    low, high = _longest_run(seen_by_all)
    prefix = set(range(low, high))
    rest = np.unique(np.concatenate([slots, *(path[oldest:] for path in above.values())]))
    rest = rest[(rest < low) | (rest >= high)] if prefix else rest
    first, last = int(rest[0]), int(rest[-1]) + 1
    dense = last - first <= SPAN_SLACK * len(rest) and not (first < high and low < last)
    count = last - first if dense else len(rest)

    def columns(wanted: np.ndarray) -> np.ndarray:
        wanted = wanted[(wanted < low) | (wanted >= high)]
        return wanted - first if dense else np.searchsorted(rest, wanted)

    allowed = np.zeros((len(slots), count), dtype=bool)
    own = columns(slots)
    for i in np.argsort(forest.depth[slots], kind="stable").tolist():
        if i in above:
            allowed[i, columns(above[i][oldest:])] = True
        else:
            allowed[i] = allowed[index[parents[i]]]
        allowed[i, own[i]] = True
    if window is not None:
        shown = np.arange(first, last) if dense else rest
        allowed &= forest.depth[slots][:, None] - forest.depth[shown][None, :] < window
    tail = (first, last) if dense else torch.from_numpy(rest)
    return Group(slice(start, start + len(slots)), (low, high), tail, to_mask(allowed))


def _common(paths: list[np.ndarray]) -> np.ndarray:
    """The slots that all paths begin with."""
    length = min(len(path) for path in paths)
    first = paths[0][:length]
    for path in paths[1:]:
        differs = np.flatnonzero(first != path[: len(first)])
        if len(differs):
            first = first[: differs[0]]
    return first


def _longest_run(slots: np.ndarray) -> tuple[int, int]:
    """The longest run of consecutive slots in a path, as a span; empty for an empty path."""
    if not len(slots):
        return 0, 0
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    edges = np.concatenate([[0], breaks, [len(slots)]])
    longest = int(np.argmax(np.diff(edges)))
    begin, end = int(edges[longest]), int(edges[longest + 1])
    return int(slots[begin]), int(slots[end - 1]) + 1


ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention)
# outside a plan the model behaves as with sdpa, masks included: a loaded model stays its owner's to use
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
