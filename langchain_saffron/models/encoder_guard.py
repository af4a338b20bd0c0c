"""An encoder that classifies texts as a guard: it reads every prefix by itself."""

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.classifier import UNSAFE_LABELS, label_weights
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer

_BATCH = 16


class EncoderGuard:
    """A `conversation_guard` around an encoder with a classification head (BERT, DeBERTa, ModernBERT).

    It reads the last question and the answer so far as a pair of texts, and rewards by the difference of two labels'
    logits; of an encoder whose labels are all kinds of harm, by the negative logit of the one that is named. What is
    longer than its context loses its beginning.

    Attributes:
        weights: Which outputs make up the reward, and with what sign.
    """

    scores_conversations = True

    def __init__(
        self,
        model: str,
        *,
        safe: str | int | None = None,
        unsafe: str | int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        **load: Any,
    ) -> None:
        """Load one.

        Args:
            model: A hub id or directory.
            safe: The label that means safe; `None` looks for one that is called so.
            unsafe: The one that means unsafe.
            device: Where it runs.
            dtype: Of its weights.
            **load: Further options of the loading.

        Raises:
            ModelLoadError: It cannot be loaded, or its labels do not say which means safe.
        """
        name = "guard"
        kind = AutoModelForSequenceClassification
        self._model = load_causal_lm(model, name, device=device, dtype=dtype, kind=kind, **load)
        self._tokenizer = load_tokenizer(model, name, load.get("revision"), load.get("hf_token"))
        self._tokenizer.truncation_side = "left"
        self.weights = _weights(self._model.config, safe, unsafe)
        limits = self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", None)
        self._longest = min(limit for limit in limits if limit)

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its scores depend on, for `models.fingerprint`."""
        return self._model, self._tokenizer, self.weights

    @torch.inference_mode()
    def __call__(self, conversations: list[list[dict[str, str]]]) -> list[float]:
        """A reward for each conversation."""
        rewards: list[float] = []
        for start in range(0, len(conversations), _BATCH):
            part = conversations[start : start + _BATCH]
            asked = [next((m["content"] for m in reversed(one[:-1]) if m["role"] == "user"), "") for one in part]
            inputs = self._tokenizer(
                asked, [one[-1]["content"] for one in part], padding=True, truncation=True, max_length=self._longest,
                return_tensors="pt",
            )  # fmt: skip
            logits = self._model(**inputs.to(self._model.device)).logits.float()
            signed = torch.stack([sign * logits[:, index] for index, sign in self.weights.items()])
            rewards += signed.sum(dim=0).tolist()
        return rewards


def _weights(config: Any, safe: str | int | None, unsafe: str | int | None) -> dict[int, float]:
    try:
        return label_weights(config, safe, unsafe)
    except ModelLoadError:
        named = (str(unsafe).lower(),) if unsafe is not None else UNSAFE_LABELS
        harm = [index for index, label in config.id2label.items() if str(label).lower() in named]
        if safe is not None or len(harm) != 1:
            raise
        return {int(harm[0]): -1.0}
