"""A causal LM over a forest of token tries: one forward scores any set of nodes."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from langchain_saffron.cache import KeyValuePool, LayerMasks, TokenForest, visible_rows
from langchain_saffron.errors import UnsupportedModelError
from langchain_saffron.models.flops import FlopCounter

DEFAULT_CACHE_TOKENS = 32_768


class TrieDecoder:
    """A transformers causal LM whose KV cache is a forest of tries.

    Attributes:
        name: What error messages call the model.
        model: The transformers model, in eval mode.
        forest: The tries.
        pool: Keys and values by slot.
        flops: The cost of a forward.
        context: Most tokens from the first of the prompt to the last of the answer.
    """

    def __init__(self, model: Any, name: str, max_cache_tokens: int = DEFAULT_CACHE_TOKENS) -> None:
        """Wrap a loaded model.

        Args:
            model: A decoder-only transformers causal LM.
            name: What error messages call it.
            max_cache_tokens: Slots of the KV cache: the memory bound, in tokens.

        Raises:
            UnsupportedModelError: The model takes no `position_ids`, or has layers whose state cannot be
                shared between branches (recurrent, chunked).
        """
        self.name = name
        self.model = model.eval()
        self.forest = TokenForest(max_cache_tokens)
        self.pool = KeyValuePool(max_cache_tokens)
        self._layers, sliding = _layer_masks(model.config, name)
        parameters = inspect.signature(model.forward).parameters
        if "position_ids" not in parameters or "past_key_values" not in parameters:
            raise UnsupportedModelError(
                f"the {name} ({type(model).__name__}) takes no position_ids: branches of a trie cannot share its "
                "cache. Use a decoder with rotary or learned positions, such as Llama, Qwen, Mistral or Gemma."
            )
        self._keep_argument = "logits_to_keep" in parameters
        self._additive = model.config._attn_implementation == "eager"
        self.flops = FlopCounter.of(model, self._layers.window, sliding)
        self.context: int = getattr(model.config, "max_position_embeddings", None) or max_cache_tokens

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.get_input_embeddings().weight.device

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        return self.model.get_output_embeddings().weight.shape[0]

    @torch.inference_mode()
    def forward(self, rows: Sequence[int], scored: Sequence[int]) -> torch.Tensor:
        """Compute keys and values of `rows` and the next-token logits at `scored`.

        Args:
            rows: Distinct slots of the forest, in any order; every ancestor that is not among them must be
                filled.
            scored: Indices into `rows`.

        Returns:
            Logits [len(scored), vocabulary] in float32 (float64 if that is the model's), on its device.
        """
        slots = np.asarray(rows, dtype=np.int64)
        visibility = visible_rows(self.forest, slots, windowed=self._layers.window is not None)
        self.pool.aim(slots, visibility.read)
        device = self.device
        tokens = torch.tensor([[self.forest.token(slot) for slot in rows]], device=device)
        positions = torch.from_numpy(self.forest.depth[slots])[None].to(device)
        masks = visibility.masks(self._layers, self.model.dtype, device, self._additive)
        keep = torch.tensor(scored, dtype=torch.long, device=device)
        extra = {"logits_to_keep": keep} if self._keep_argument else {}
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=masks,
            past_key_values=self.pool,
            use_cache=True,
            **extra,
        )
        logits = output.logits[0]
        self.forest.filled[slots] = True
        logits = logits if self._keep_argument else logits[keep]
        return logits if logits.dtype == torch.float64 else logits.float()

    def forget(self, rows: Sequence[int]) -> None:
        """Zero the keys and values of `rows`, which then count as not computed."""
        slots = np.asarray(rows, dtype=np.int64)
        self.pool.wipe(slots)
        self.forest.filled[slots] = False

    def cost(self, rows: Sequence[int], scored: int) -> float:
        """TFLOP of a forward over `rows` with `scored` outputs."""
        return self.flops.forward(self.forest.depth[np.asarray(rows, dtype=np.int64)], scored) / 1e12

    def row_cost(self, depth: int) -> float:
        """TFLOP of scoring one more node at `depth`."""
        return self.flops.forward(np.array([depth]), 1) / 1e12


def _layer_masks(config: Any, name: str) -> tuple[LayerMasks, int]:
    """The kinds of attention in a model, and how many layers have a sliding window."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    layers = config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * layers
    kinds = tuple(sorted(set(types)))
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedModelError(
            f"the {name} ({config.model_type}) has layers of kind {sorted(unknown)}, whose state cannot be shared "
            "between the branches of a trie. Use a decoder with full or sliding-window attention."
        )
    if "sliding_attention" not in kinds:
        window = None
    return LayerMasks(window=window, kinds=kinds), sum(kind == "sliding_attention" for kind in types)
