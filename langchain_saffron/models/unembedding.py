"""The last product of a causal LM, states with the rows of its vocabulary, for some of the tokens alone."""

from collections.abc import Callable
from typing import Any

import torch

from langchain_saffron.models.packing import PackedLinear, is_hooked, replace
from langchain_saffron.models.quantized_linear import QuantizedLinear, integer_rows


class Unembedding:
    """From states to the logits of some tokens: the numbers of a whole forward, to the rounding of its dtype.

    Attributes:
        outputs: Tokens.
        product: FLOPs of one state with one token.
    """

    def __init__(
        self,
        head: Any,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scales: torch.Tensor | None = None,
        finish: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Take a model's output head.

        Args:
            head: The layer; `None` if it does something besides.
            weight: [outputs, width]: its rows; int8 with `scales`.
            bias: [outputs], or `None`.
            scales: float32 [outputs]: what a step of each row in int8 is worth.
            finish: What the model does to its logits behind the product.
        """
        self._head, self._weight, self._bias, self._scales = head, weight, bias, scales
        self._finish = finish or (lambda logits: logits)
        self.outputs = len(weight)
        self.product = 2 * weight.shape[1]

    @classmethod
    def of(cls, model: Any) -> "Unembedding | None":
        """The unembedding of a model, or `None` where its head cannot be taken apart.

        A packed head that is not tied to the embeddings, which hold the same rows, is unpacked.

        Args:
            model: A transformers causal LM, whose head may be replaced.
        """
        head = model.get_output_embeddings()
        if is_hooked(model):
            # the weights are where accelerate puts them
            return None
        finish = _finish(model.config.get_text_config())
        if isinstance(head, QuantizedLinear):
            weight, scales, bias = head.rows()
            return cls(head, weight, bias, scales, finish)
        if isinstance(head, PackedLinear):
            tied = _tied(model, head)
            if tied is not None:
                return cls(head, tied, head.bias, None, finish)
            name = next(name for name, module in model.named_modules() if module is head)
            head = head.unpack()
            replace(model, name, head)
        return cls(head, head.weight, head.bias, None, finish) if type(head) is torch.nn.Linear else None

    @classmethod
    def rows_of(cls, model: Any) -> "Unembedding | None":
        """A model's unembedding as plain rows: what the model adds or does to its logits is left out.

        Its head stays as it is; where that is packed and not tied to the embeddings, the rows are a copy.

        Returns:
            `None` where the rows cannot be read.
        """
        head = model.get_output_embeddings()
        if is_hooked(model):
            return None
        if isinstance(head, QuantizedLinear):
            weight, scales, _ = head.rows()
            return cls(None, weight, None, scales)
        if isinstance(head, PackedLinear):
            tied = _tied(model, head)
            return cls(None, head.weight.to_dense() if tied is None else tied, None)
        return cls(None, head.weight, None) if type(head) is torch.nn.Linear else None

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What states have to be: rows in int8 take floats of any kind."""
        return self._weight.dtype if self._scales is None else torch.float32

    @torch.inference_mode()
    def whole(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [states, outputs] of all tokens."""
        if self._head is None:
            return self._logits(states, self._weight, self._scales, self._bias)
        return _wide(self._finish(self._head(states)))

    @torch.inference_mode()
    def columns(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the same tokens for every state.

        Args:
            states: [states, width].
            tokens: int64 [columns].

        Returns:
            [states, columns] in float32 (float64 if that is the model's).
        """
        weight = self._weight.index_select(0, tokens)
        scales = None if self._scales is None else self._scales[tokens]
        return self._logits(states, weight, scales, None if self._bias is None else self._bias[tokens])

    @torch.inference_mode()
    def gathered(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each state's own tokens, for float weights.

        Args:
            states: [states, width].
            tokens: int64 [states, columns].

        Returns:
            [states, columns], as `columns`.
        """
        logits = torch.bmm(self._weight[tokens], states[:, :, None])[:, :, 0]
        return _wide(self._finish(logits if self._bias is None else logits + self._bias[tokens]))

    def _logits(
        self, states: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor | None, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if scales is not None:
            return _wide(self._finish(integer_rows(states, weight, scales, bias)))
        return _wide(self._finish(torch.nn.functional.linear(states, weight, bias)))


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _finish(config: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a model does to its logits behind the product."""
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    if cap:
        # Gemma
        return lambda logits: torch.tanh(logits / cap) * cap
    scale: float | None = getattr(config, "logit_scale", None)
    if scale is not None:
        # Cohere
        return lambda logits: logits * scale
    divisor: float | None = getattr(config, "logits_scaling", None)
    if divisor is not None:
        # Granite
        return lambda logits: logits / divisor
    return lambda logits: logits


def _tied(model: Any, head: PackedLinear) -> torch.Tensor | None:
    """The embeddings, where their rows are the head's."""
    weight: torch.Tensor | None = getattr(model.get_input_embeddings(), "weight", None)
    if weight is None or weight.shape != (head.out_features, head.in_features):
        return None
    return weight if torch.equal(weight, head.weight.to_dense()) else None
