"""A causal LM over a forest of token tries: one forward scores any set of nodes."""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from langchain_saffron.cache import KeyValuePool, LayerMasks, TokenForest, visible_rows
from langchain_saffron.cache.attention import NAME as TREE_ATTENTION
from langchain_saffron.cache.attention_plan import plan_attention
from langchain_saffron.cache.decode_step import DecodeStep
from langchain_saffron.cache.forward_context import ForwardContext
from langchain_saffron.errors import UnsupportedModelError
from langchain_saffron.models.compat import cache_argument
from langchain_saffron.models.cuda_recording import CudaRecording
from langchain_saffron.models.flops import FlopCounter
from langchain_saffron.models.graph_runner import GraphRunner, Record
from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.models.lean_model import LeanModel
from langchain_saffron.models.packing import is_hooked, shared_copy
from langchain_saffron.models.quantization import Quantized, quantize
from langchain_saffron.models.quantized_linear import QuantizedLinear
from langchain_saffron.models.tree_check import TreeCheck
from langchain_saffron.models.unembedding import Unembedding
from langchain_saffron.models.wrapped import plain_model
from langchain_saffron.runtime.devices import upload
from langchain_saffron.runtime.memory import memory_errors
from langchain_saffron.runtime.threads import on_own_thread

DEFAULT_CACHE_TOKENS = 32_768


class TrieDecoder:
    """A transformers causal LM whose KV cache is a forest of tries.

    Attributes:
        name: What error messages call the model.
        model: The transformers model, in eval mode.
        forest: The tries.
        pool: Keys and values by slot.
        flops: The cost of a forward.
        quantized: What became of its weights, where int8 was asked for.
        unembedding: What makes logits of states, where `split` was called and the model can be taken apart so.
        tap: Takes the states of a layer from every forward, where a reward head reads them.
        lean: Computes the layers in fewer operations, where they give what the model's own do.
        graphs: Computes decode steps by CUDA graphs, where `capture_steps` found that it can.
        cache_arguments: What makes a forward of the model read and write the pool.
        capacity: Slots of the KV cache.
        context: Most tokens from the first of the prompt to the last of the answer: no more than the cache has slots.
            Under `longrope` that is the length up to which its frequencies do not change.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        max_cache_tokens: int = DEFAULT_CACHE_TOKENS,
        attn_implementation: str | None = None,
        owned: bool = False,
        int8_text: Sequence[int] | None = None,
    ) -> None:
        """Wrap a loaded model, and check on a small tree that its branches can share a cache.

        Args:
            model: A decoder-only transformers causal LM.
            name: What error messages call it.
            max_cache_tokens: Slots of the KV cache: the memory bound, in tokens.
            attn_implementation: `"sdpa"` or `"eager"` to attend through one mask over all slots; `None` takes the
                tree's own attention, and these where the model's computations differ under it.
            owned: Whether the model is the decoder's to change. Else linear layers are packed in a copy, where memory
                allows.
            int8_text: Token ids of a text on which linear layers in int8 are checked; `None` leaves the weights in
                their own type.

        Raises:
            NumericalError: The model returns NaN.
            UnsupportedModelError: The model takes no `position_ids`, has layers whose state cannot be shared between
                branches (recurrent, chunked), or computes something else on a tree than on its branches.
        """
        self.name = name
        model = plain_model(model, name)
        self.model = model.eval()
        self.forest = TokenForest(max_cache_tokens)
        self.pool = KeyValuePool(max_cache_tokens)
        self._too_large = (
            f"the {name} ran out of memory: lower max_cache_tokens (now {max_cache_tokens:,}), effort or width, send "
            "fewer requests at once, or load it in a smaller dtype"
        )
        self._layers, self._kinds = _layer_masks(model.config, name)
        parameters = inspect.signature(model.forward).parameters
        cache = cache_argument(model)
        if "position_ids" not in parameters or cache is None:
            raise UnsupportedModelError(
                f"the {name} ({type(model).__name__}) takes no position_ids: branches of a trie cannot share its "
                "cache. Use a decoder with rotary or learned positions, such as Llama, Qwen, Mistral or Gemma."
            )
        self._keep_argument = "logits_to_keep" in parameters
        self.cache_arguments: dict[str, Any] = {cache: self.pool, "use_cache": True}
        self.flops = FlopCounter.of(model, self._layers.window, self._kinds.count("sliding_attention"))
        self.quantized: Quantized | None = None
        self.unembedding: Unembedding | None = None
        self.tap: LayerTap | None = None
        self.lean: LeanModel | None = None
        self.graphs: GraphRunner | None = None
        check = TreeCheck(self)
        if int8_text is not None:
            if not owned and not is_hooked(self.model):
                self.model, owned = shared_copy(self.model), True
            # whether a tree can be computed is seen in the weights' own type: int8 makes much of the last bits
            attn_implementation, _ = check.choose_attention(attn_implementation, owned, packed=False)
            self._quantize(int8_text, owned)
        chosen, expected = check.choose_attention(attn_implementation, owned)
        if chosen == TREE_ATTENTION:
            check.hold_narrow(expected, int8_text or ())
            self.lean = check.lean()
        self.capacity = max_cache_tokens
        self.context = min(_context(model.config) or max_cache_tokens, max_cache_tokens)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.get_input_embeddings().weight.device

    @property
    def known_tokens(self) -> int:
        """The number of ids that it can read; a classifier gives fewer outputs."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def vocabulary(self) -> int:
        """The number of outputs: logits, or labels of a classifier."""
        head = self.model.get_output_embeddings()
        return int(head.out_features if isinstance(head, QuantizedLinear) else head.weight.shape[0])

    @property
    def reads_in_place(self) -> bool:
        """Whether every request's rows read their own slots, and not all rows those of all."""
        return bool(self.model.config._attn_implementation == TREE_ATTENTION)

    @torch.inference_mode()
    def forward(
        self,
        rows: Sequence[int],
        scored: Sequence[int],
        groups: Sequence[int] | None = None,
        states: bool = False,
    ) -> torch.Tensor:
        """Compute keys and values of `rows` and the next-token logits at `scored`.

        Args:
            rows: Distinct slots of the forest, in any order; every ancestor that is not among them must be
                filled.
            scored: Indices into `rows`.
            groups: How many rows each request has, in order; rows of one request attend together.
            states: Whether the states below the unembedding are wanted in place of logits.

        Returns:
            Logits [len(scored), vocabulary] in float32 (float64 if that is the model's), on its device; or states
            [len(scored), width] in the model's own dtype.

        Raises:
            ModelMemoryError: It does not fit into memory.
        """
        slots = np.asarray(rows, dtype=np.int64)
        groups = groups or [len(slots)]

        def dynamic() -> torch.Tensor:
            return self._dynamic(slots, scored, groups, states)

        with memory_errors(self._too_large):
            if self.graphs is None:
                found = dynamic()
            else:
                step = None if self.graphs.failure else DecodeStep.of(self.forest, slots, scored, groups)
                found = self.graphs.run(step, states, self.tap, dynamic)
                self.forest.remember_leaves(slots)
        self.forest.filled[slots] = True
        return found if states or found.dtype == torch.float64 else found.float()

    def capture_steps(self, record: Record | None = None) -> str | None:
        """Compute decode steps by CUDA graphs from now on, where the model lets itself be captured.

        Args:
            record: Captures a step; by default a CUDA graph does.

        Returns:
            Why it does not; `None` where it does, as far as can be seen before the first capture.
        """
        if self.graphs is not None:
            return self.graphs.failure
        device = self.device
        if (reason := self._not_captured(record)) is not None:
            return reason
        if record is None:
            memory, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
            record = partial(CudaRecording, device=device, memory=memory, stream=stream)
        self.graphs = GraphRunner(
            self.compute,
            self.pool,
            record,
            TreeCheck(self).is_close,
            name=self.name,
            kinds=self._kinds,
            window=self._layers.window,
            device=device,
            dtype=self.model.dtype,
        )
        return None

    def _not_captured(self, record: Record | None) -> str | None:
        if record is None and self.device.type != "cuda":
            return "it is not on a device of CUDA's"
        if not self.reads_in_place:
            return "it does not run under the tree's own attention"
        if is_hooked(self.model):
            return "accelerate moves its weights about"
        return None

    def _dynamic(self, slots: np.ndarray, scored: Sequence[int], groups: Sequence[int], states: bool) -> torch.Tensor:
        """A forward of any shape."""
        device = self.device
        tokens = upload([self.forest.token(slot) for slot in slots.tolist()], torch.long, device)[None]
        positions = upload(torch.from_numpy(self.forest.depth[slots]), torch.long, device)[None]
        keep = upload(scored, torch.long, device)
        with self.forward_context(slots, groups).over(self.pool) as masks:
            return self.compute(tokens, positions, keep, states, masks)

    def compute(
        self, tokens: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor, states: bool, masks: Any = None
    ) -> torch.Tensor:
        """The model's forward, once it is known what its rows read.

        Args:
            tokens: [1, rows].
            positions: [1, rows].
            keep: The rows that are scored.
            states: Whether the states below the unembedding are wanted in place of logits.
            masks: For the model's attention, where it is not the tree's own.

        Returns:
            Logits or states [kept, …] as the model gives them.
        """
        if states and self.lean is not None:
            return self.lean(tokens, positions)[0, keep]
        runs = self.model.base_model if states else self.model
        extra = {"logits_to_keep": keep} if self._keep_argument and not states else {}
        with nullcontext() if self.lean is None else self.lean.inside():
            output = runs(
                input_ids=tokens, position_ids=positions, attention_mask=masks, **self.cache_arguments, **extra
            )
        found: torch.Tensor = output.last_hidden_state[0] if states else output.logits[0]
        return found if extra else found[keep]

    @on_own_thread
    def _quantize(self, text: Sequence[int], owned: bool) -> None:
        self.model, self.quantized = quantize(self.model, text, owned, self.name, rewards=self.name == "reward model")

    @on_own_thread
    @torch.inference_mode()
    def split(self) -> None:
        """Let forwards give states, where that and `unembedding` make of a small tree what the model makes of it."""
        self.unembedding = unembedding = Unembedding.of(self.model)
        if unembedding is None:
            return
        check = TreeCheck(self)
        expected, states = check.of_tree(), check.of_tree(states=True)
        if expected is None or states is None or expected.shape[1] != unembedding.outputs:
            self.unembedding = None
            return
        some = torch.arange(min(unembedding.outputs, 64), device=states.device)
        differences = unembedding.whole(states) - expected, unembedding.columns(states, some) - expected[:, some]
        if max(float(one.abs().max()) for one in differences) > check.tolerance(expected):
            self.unembedding = None

    def forward_context(self, slots: np.ndarray, groups: Sequence[int]) -> ForwardContext:
        """What the rows of a forward over `slots` attend to."""
        if self.reads_in_place:
            window = self._layers.window
            even = self.pool.is_upright
            plan = plan_attention(self.forest, self.pool, slots, groups, self._kinds, window, self._additive, even)
            self.forest.remember_leaves(slots)
            return ForwardContext(slots, plan)
        visibility = visible_rows(self.forest, slots, windowed=self._layers.window is not None)
        self.forest.remember_leaves(slots)
        additive = self.model.config._attn_implementation == "eager"
        masks = visibility.masks(self._layers, self.model.dtype, self.device, additive)
        return ForwardContext(slots, read=visibility.read, masks=masks)

    def _additive(self, allowed: np.ndarray) -> torch.Tensor:
        mask = torch.zeros(allowed.shape, dtype=self.pool.dtype or self.model.dtype)
        return mask.masked_fill_(torch.from_numpy(~allowed), -torch.inf)

    def clear(self) -> None:
        """Forget everything that is cached."""
        self.forest.clear()
        self.pool.clear()

    def forget(self, rows: Sequence[int]) -> None:
        """Zero the keys and values of `rows`, which then count as not computed."""
        slots = np.asarray(rows, dtype=np.int64)
        self.pool.wipe(slots)
        self.forest.filled[slots] = False

    def cost(self, rows: Sequence[int], scored: int) -> float:
        """TFLOP of a forward over `rows` with `scored` outputs."""
        return self.flops.forward(self.forest.depth[np.asarray(rows, dtype=np.int64)], scored) / 1e12

    def prompt_cost(self, length: int) -> float:
        """TFLOP of reading a prompt of `length` tokens, all but its last, which is scored by itself."""
        return self.flops.forward(np.arange(length - 1), 0) / 1e12

    def row_cost(self, depth: int) -> float:
        """TFLOP of scoring one more node at `depth`."""
        return self.flops.forward(np.array([depth]), 1) / 1e12


def _layer_masks(config: Any, name: str) -> tuple[LayerMasks, list[str]]:
    """The kinds of attention in a model, and each layer's."""
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
    return LayerMasks(window=window, kinds=kinds), list(types)


def _context(config: Any) -> int | None:
    """How far the positions of one trie may reach.

    Where the rotary frequencies change beyond some length (`longrope`), keys that were computed before and after
    do not fit together: branches, and requests of different length, can share a cache only below it.
    """
    longest: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    lengths = [
        parameters.get("original_max_position_embeddings")
        for parameters in [rope, *(part for part in rope.values() if isinstance(part, dict))]
        if parameters.get("rope_type") == "longrope"
    ]
    return min((length for length in [longest, *lengths] if length), default=None)
