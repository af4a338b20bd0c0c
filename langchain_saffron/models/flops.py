"""Forward FLOPs of a decoder, counted analytically (one multiply-add is two FLOPs)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D


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
        linear = sum(
            2 * module.weight.numel()
            for module in model.modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        )
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        pair = 4 * heads * size
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
