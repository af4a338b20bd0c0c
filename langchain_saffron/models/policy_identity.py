"""What tells the policy that a head was trained on from others, down to its weights."""

from dataclasses import dataclass
from typing import Any

import torch

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.layer_tap import LayerTap, decoder_layers
from langchain_saffron.models.vocabulary import vocabulary_hash
from langchain_saffron.runtime.threads import on_own_thread

_TOKENS = 16
_REMEDY = "Use that policy, or train a head on this one (saffron train --on head)"
# of the states' spread over the probe's tokens; bfloat16 and int8 make some hundredths of it, other weights all of it
MOST_DIFFERENCE = 0.3


@dataclass(frozen=True)
class PolicyIdentity:
    """A policy, as a head knows it.

    Attributes:
        name: What it was called.
        architecture: Its class.
        layers: How many it has.
        width: Of its states.
        vocabulary: Rows of its unembedding.
        vocabulary_hash: Of its tokenizer's ordinary tokens.
        probe: float32 [tokens, width]: the states of the head's layer for a fixed row of tokens.
    """

    name: str
    architecture: str
    layers: int
    width: int
    vocabulary: int
    vocabulary_hash: str
    probe: torch.Tensor

    @classmethod
    def of(cls, model: Any, tokenizer: Any, layer: int, name: str) -> "PolicyIdentity":
        """The identity of a loaded model.

        Raises:
            UnsupportedModelError: It has no such layer.
        """
        return cls(**_facts(model, tokenizer), name=name, probe=_probe(model, layer).cpu())

    def record(self) -> dict[str, Any]:
        """All but the states, for JSON."""
        return {name: value for name, value in vars(self).items() if name != "probe"}

    def check(self, model: Any, tokenizer: Any, layer: int) -> None:
        """Refuse another policy, or another layer of this one.

        Raises:
            ModelLoadError: It is another; the message names the difference.
        """
        facts = _facts(model, tokenizer)
        own = {what: getattr(self, what) for what in facts}
        differing = [
            f"{what} {_short(own[what])}, here {_short(facts[what])}" for what in facts if own[what] != facts[what]
        ]
        if differing:
            raise ModelLoadError(
                f"the head was trained on another policy ({self.name}): {'; '.join(differing)}. {_REMEDY}"
            )
        if not 1 <= layer <= self.layers:
            raise ModelLoadError(
                f"the head reads layer {layer}, but the policy has {self.layers}: its config is damaged"
            )
        found = _probe(model, layer).cpu()
        wanted = self.probe
        # the first token's states are huge in many models, and the same whatever is read
        away = float((found - wanted)[1:].norm() / (wanted - wanted.mean(0))[1:].norm().clamp_min(1e-9))
        if not away <= MOST_DIFFERENCE:
            raise ModelLoadError(
                f"the states of the policy's layer {layer} differ from those that the head was trained on "
                f"({self.name}) by {away:.0%} of their spread: it has other weights (fine-tuned, adapted, or another "
                f"model of this shape), or the layer is another. {_REMEDY}"
            )


def _short(value: Any) -> str:
    """A hash by its beginning."""
    return repr(f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else value)


def _facts(model: Any, tokenizer: Any) -> dict[str, Any]:
    head = model.get_output_embeddings()
    return {
        "architecture": type(model).__name__,
        "layers": len(decoder_layers(model)),
        "width": int(model.config.get_text_config().hidden_size),
        "vocabulary": int(getattr(head, "out_features", None) or head.weight.shape[0]),
        "vocabulary_hash": vocabulary_hash(tokenizer),
    }


@on_own_thread
@torch.inference_mode()
def _probe(model: Any, layer: int) -> torch.Tensor:
    device = model.get_input_embeddings().weight.device
    known = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(7919 * i + 101) % known for i in range(_TOKENS)]], device=device)
    tap = LayerTap(model, layer)
    try:
        model(input_ids=ids, use_cache=False)
        return tap.take(0).float().clone()
    finally:
        tap.close()
