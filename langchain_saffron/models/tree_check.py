"""Whether a model computes on a small tree what it does on its branches, and how it runs fastest where it does."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from langchain_saffron.cache import KeyValuePool, TokenForest
from langchain_saffron.cache.attention import NAME as TREE_ATTENTION
from langchain_saffron.errors import NumericalError, UnsupportedModelError
from langchain_saffron.models.lean_model import LeanModel
from langchain_saffron.models.packing import pack, unpack
from langchain_saffron.models.quantization import Quantized
from langchain_saffron.runtime.devices import computes_bfloat16
from langchain_saffron.runtime.threads import on_own_thread


class ComputesTrees(Protocol):
    """What is checked: a `TrieDecoder`, whose attributes these are."""

    name: str
    model: Any
    forest: TokenForest
    pool: KeyValuePool
    quantized: Quantized | None

    @property
    def device(self) -> torch.device:
        """Where inputs go."""

    @property
    def known_tokens(self) -> int:
        """The number of ids that it can read."""

    def forward(
        self, rows: Sequence[int], scored: Sequence[int], groups: Sequence[int] | None = None, states: bool = False
    ) -> torch.Tensor:
        """Logits or states at some of the rows that it computes."""


class TreeCheck:
    """Compares forwards of a decoder over a small tree with plain forwards of its model, and chooses by that."""

    def __init__(self, decoder: ComputesTrees) -> None:
        """Take a decoder, whose forest has room for the small tree.

        Args:
            decoder: Of it the model's attention, its packing and the pool's type are chosen.
        """
        self._decoder = decoder
        tokens = [(37 * i + 11) % decoder.known_tokens for i in range(9)]
        # a small tree, as the paths to its leaves
        self._branches = [[*tokens[:5], tokens[5]], [*tokens[:5], tokens[6], tokens[7]], [*tokens[:4], tokens[8]]]

    @on_own_thread
    def choose_attention(
        self, implementation: str | None, owned: bool, packed: bool = True
    ) -> tuple[str, torch.Tensor]:
        """Take the fastest way to run under which the tree gives what its branches give one by one.

        Args:
            implementation: The only one to try; `None` for the tree's own attention, then the model's, then eager.
            owned: Whether the model is the decoder's to change.
            packed: Whether its linear layers are packed where that works.

        Returns:
            The name of the attention, and the plain logits [branches, vocabulary].

        Raises:
            NumericalError: The model returns NaN or infinity.
            UnsupportedModelError: There is no such way.
        """
        decoder = self._decoder
        own = decoder.model.config._attn_implementation
        expected = self.of_branches()
        if not bool(expected.amax(dim=-1).isfinite().all()):
            raise NumericalError(f"the {decoder.name} returns NaN or infinity: damaged weights, or too narrow a dtype")
        names = (
            [implementation]
            if implementation
            else [TREE_ATTENTION, own if own in ("sdpa", "eager") else "eager", "eager"]
        )

        def equal(name: str) -> bool:
            decoder.model.set_attn_implementation(name)
            logits = self.of_tree()
            return logits is not None and self.is_close(logits, expected)

        plain = decoder.model
        if packed:
            decoder.model = pack(decoder.model, in_place=owned)
            if (chosen := next(filter(equal, names), None)) is not None:
                return chosen, expected
            if owned:
                unpack(decoder.model)
            else:
                decoder.model = plain
        if (chosen := next(filter(equal, names), None)) is None:
            raise UnsupportedModelError(
                f"the {decoder.name} ({decoder.model.config.model_type}) computes something else on a tree of tokens "
                "than on its branches: it cannot share a cache between beams. Use another model, or plain transformers."
            )
        return chosen, expected

    @on_own_thread
    @torch.inference_mode()
    def hold_narrow(self, expected: torch.Tensor, text: Sequence[int]) -> None:
        """Hold keys and values in bfloat16, in the order of their products, on a CPU that computes in it.

        A model in float32 keeps them in float32; one in int8, whose own rounding is larger, as long as what it says of
        a text stays within the bound of its weights.

        Args:
            expected: The plain logits [branches, vocabulary].
            text: The token ids of the text.
        """
        decoder = self._decoder
        quantized = decoder.quantized
        small = quantized is not None and quantized.layers > 0
        if not (small or decoder.model.dtype == torch.bfloat16) or not computes_bfloat16("cpu"):
            return
        if any(parameter.device.type != "cpu" for parameter in decoder.model.parameters()):
            return
        decoder.pool.hold_in(torch.bfloat16, upright=True)
        found = self.of_tree()
        held = found is not None and self.is_close(found, expected)
        if held and quantized is not None:
            rewards = decoder.name == "reward model"
            # of a small cache's size at most
            text = list(text)[: decoder.forest.capacity]
            plain = decoder.model(input_ids=torch.tensor([text]), use_cache=False).logits[0]
            path = decoder.forest.insert(text)
            held = quantized.holds(plain, decoder.forward(path, range(len(path))), rewards)
            decoder.forest.release(path[-1])
        decoder.pool.hold_in(torch.bfloat16 if held else None, upright=held)

    @on_own_thread
    @torch.inference_mode()
    def lean(self) -> LeanModel | None:
        """The decoder's layers in fewer operations, where they give the same over the tree."""
        decoder = self._decoder
        rounds = decoder.quantized is not None and decoder.quantized.layers > 0
        rounds = rounds or decoder.pool.dtype is not None
        return LeanModel.of(decoder.model, decoder.pool, self.of_tree, rounds)

    def is_close(self, found: torch.Tensor, expected: torch.Tensor) -> bool:
        """Whether logits differ by rounding alone."""
        difference = (found - expected).abs()
        if self._decoder.quantized is not None and self._decoder.quantized.layers:
            # the last bit of an input can be a whole step of its row: single logits say little
            return float(difference.pow(2).mean().sqrt()) <= 0.5 * float(expected.std())
        return float(difference.max()) <= self.tolerance(expected)

    def tolerance(self, expected: torch.Tensor) -> float:
        """How far a logit may lie from where it is expected."""
        # the narrow types round differently in every order of summation
        narrow = self._decoder.quantized is not None or self._decoder.model.dtype in (torch.bfloat16, torch.float16)
        return (0.3 if narrow else 1e-3) * float(expected.std())

    @torch.inference_mode()
    def of_branches(self) -> torch.Tensor:
        """Next-token logits [branches, vocabulary] after each branch, by one plain forward each."""
        decoder = self._decoder
        rows = [
            decoder.model(input_ids=torch.tensor([branch], device=decoder.device), use_cache=False).logits
            for branch in self._branches
        ]
        return torch.stack([row[0, -1] for row in rows]).float()

    def of_tree(self, states: bool = False) -> torch.Tensor | None:
        """The same over the tree, or its states, in two forwards; `None` if the model cannot."""
        forest, forward = self._decoder.forest, self._decoder.forward
        nodes = [forest.insert(branch) for branch in self._branches]
        first = forest.path(nodes[0][-1])[:4].tolist()
        rest = list(dict.fromkeys(slot for path in nodes for slot in path if slot not in first))
        try:
            forward(first, [], None, states)
            found = forward(rest, [rest.index(path[-1]) for path in nodes], None, states)
            return found if states else found.float()
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError):
            return None
        finally:
            for path in nodes:
                forest.release(path[-1])
