"""A sequence classifier as a decoder that classifies at every token."""

from types import SimpleNamespace
from typing import Any

import torch

from langchain_saffron.errors import ModelLoadError, UnsupportedModelError
from langchain_saffron.models.compat import cache_argument
from langchain_saffron.models.stream_guard import StreamGuard

SAFE_LABELS, UNSAFE_LABELS = ("safe", "benign", "harmless"), ("unsafe", "harmful", "toxic")


class TokenClassifier(torch.nn.Module):
    """The body and the head of a decoder with a classification head, applied at every position.

    transformers' own classes for sequences read the head's output at the last token only; what it would say after
    every prefix is the same computation. Those for tokens read it everywhere.
    """

    def __init__(self, model: Any) -> None:
        """Take the parts of a loaded model.

        Args:
            model: A transformers model for sequence or token classification around a decoder.

        Raises:
            UnsupportedModelError: It is an encoder, or its head has another form.
        """
        super().__init__()
        self.config = model.config
        self.body: Any = getattr(model, model.base_model_prefix, None)
        score: Any = getattr(model, "score", None)
        if hasattr(score, "modules_to_save"):
            # peft's wrapper around a head that was trained with an adapter
            score = score.modules_to_save[score.active_adapters[0]]
        self.score = model.token_head() if isinstance(model, StreamGuard) else score
        head = self.score[-1] if isinstance(self.score, torch.nn.Sequential) else self.score
        decodes = self.body is not None and hasattr(model.config, "num_key_value_heads") and _is_causal(model.config)
        cache = cache_argument(self.body) if decodes else None
        if cache is None or not isinstance(head, torch.nn.Linear):
            raise UnsupportedModelError(
                f"{type(model).__name__} reads a text from both ends, or has an unknown head, so that it cannot score "
                "all prefixes of an answer at once: pass a function of (prompt, answer) that calls it"
            )
        self._cache_argument = cache

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.score.parameters()).dtype

    def get_input_embeddings(self) -> torch.nn.Module:
        """As transformers models have it."""
        embeddings: torch.nn.Module = self.body.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> torch.nn.Linear:
        """The head: what the outputs are computed by."""
        head: Any = self.score[-1] if isinstance(self.score, torch.nn.Sequential) else self.score
        linear: torch.nn.Linear = head
        return linear

    def set_attn_implementation(self, name: str) -> None:
        """As transformers models have it."""
        self.body.set_attn_implementation(name)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        cache: Any = None,
        use_cache: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> SimpleNamespace:
        """`logits` [batch, kept positions, labels]."""
        hidden = self.body(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            **{self._cache_argument: cache},
        ).last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return SimpleNamespace(logits=self.score(hidden[:, keep]))


def _is_causal(config: Any) -> bool:
    """Whether tokens see only what is before them."""
    return not getattr(config, "use_bidirectional_attention", None) and getattr(config, "is_causal", True) is not False


def label_weights(config: Any, safe: str | int | None, unsafe: str | int | None) -> dict[int, float]:
    """Which outputs make the reward, and their signs.

    Args:
        config: The model's, with its labels.
        safe: The label that means safe, by name or number; `None` looks for one that is called so.
        unsafe: The other one.

    Raises:
        ModelLoadError: The labels do not say which is which.
    """
    labels = {int(index): str(name) for index, name in config.id2label.items()}
    if len(labels) == 1:
        return {0: 1.0}
    indices = [_label(labels, given, names) for given, names in ((safe, SAFE_LABELS), (unsafe, UNSAFE_LABELS))]
    for given, index in zip((safe, unsafe), indices, strict=True):
        if given is not None and index is None:
            raise ModelLoadError(f"the classifier has no label {given!r}, only {list(labels.values())}")
    if len(labels) == 2 and indices.count(None) == 1:
        # with two labels, one is enough
        known = next(index for index in indices if index is not None)
        other = next(index for index in labels if index != known)
        indices = [other if index is None else index for index in indices]
    if None in indices or indices[0] == indices[1]:
        raise ModelLoadError(
            f"which of the classifier's labels {list(labels.values())} means safe? Say it: safe='…' and unsafe='…'"
        )
    return {int(indices[0] or 0): 1.0, int(indices[1] or 0): -1.0}


def _label(labels: dict[int, str], given: str | int | None, names: tuple[str, ...]) -> int | None:
    if isinstance(given, int):
        return given if given in labels else None
    called = (given.lower(),) if given is not None else names
    return next((index for index, name in labels.items() if name.lower() in called), None)
