"""Forward FLOPs of a decoder, counted analytically (one multiply-add is two FLOPs)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class FlopCounter:
    """What one forward costs: linear layers by row, attention by visible node.

    Attributes:
        row: FLOPs of the linear layers below the output head, a row.
        head: FLOPs of the output head, a scored row.
        full: FLOPs of attention a (row, visible node) pair, over the layers that see everything.
        sliding: The same over the layers with a sliding window.
        window: That window in tokens, or `None`.
    """

    row: int
    head: int
    full: int
    sliding: int
    window: int | None

    @classmethod
    def of(cls, model: torch.nn.Module, window: int | None, sliding_layers: int) -> "FlopCounter":
        """Count the layers of a transformers causal LM.

        Args:
            model: The model.
            window: Its sliding window in tokens, or `None`.
            sliding_layers: How many of its layers use the window.
        """
        config: Any = model.config
        head = model.get_output_embeddings()  # type: ignore[operator]
        active = getattr(config, "num_experts_per_tok", None) or 1
        linear = sum(_per_row(module, active) for module in model.modules() if module is not head)
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        key = getattr(config, "qk_head_dim", None) or size
        pair = 2 * heads * (key + (getattr(config, "v_head_dim", None) or size))
        layers = config.num_hidden_layers
        return cls(
            row=linear,
            head=2 * head.weight.numel(),
            full=pair * (layers - sliding_layers),
            sliding=pair * sliding_layers,
            window=window,
        )

    def forward(self, depths: np.ndarray, scored: int) -> float:
        """FLOPs of one forward.

        Args:
            depths: int array [rows]: tokens above each row, which it sees together with itself.
            scored: Rows for which the output head runs.
        """
        visible = depths.astype(np.float64) + 1
        pairs = float(visible.sum())
        near = float(np.minimum(visible, self.window).sum()) if self.window else pairs
        return len(depths) * self.row + scored * self.head + self.full * pairs + self.sliding * near


def _per_row(module: torch.nn.Module, active: int) -> int:
    """FLOPs of a module's own matrices a row; of experts' matrices, which are stacked, `active` ones work."""
    if isinstance(module, torch.nn.Embedding):
        return 0
    if isinstance(module, torch.nn.Linear):
        # not the weight's size: a quantised one is packed
        return 2 * module.in_features * module.out_features
    matrices = {name: p for name, p in module.named_parameters(recurse=False) if not name.endswith("bias")}
    single = sum(p.numel() for p in matrices.values() if p.dim() == 2)
    stacked = sum(p[0].numel() for p in matrices.values() if p.dim() == 3)
    return 2 * (single + active * stacked)
