"""The base in two parts: frozen lower layers, whose states are computed once, and upper ones with an adapter.

Frozen weights and what lies between products are bfloat16 where the CPU has instructions for it; the adapter itself is
float32. Rows are short (`texts.plan`), so that one mask of a row costs little beside the products.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from langchain_saffron.models.lora import PREFIX
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from langchain_saffron.runtime.devices import computes_bfloat16
from langchain_saffron.runtime.files import whole
from langchain_saffron.smollm2.recipe.texts import Packed, Text

# tokens of a row behind the prompt, and texts in one forward of the lower layers
_ROW, _TOGETHER = 160, 16
# texts after which their states are saved
_SAVED = 256


class LowRank(nn.Module):
    """A frozen linear layer with `alpha / rank · B A` beside it, in float32; B starts at zero."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        """As the merged layer."""
        kind = inputs.dtype
        down = nn.functional.linear(inputs, self.a.to(kind))
        outputs: Tensor = self.base(inputs) + nn.functional.linear(down, (self.scale * self.b).to(kind))
        return outputs


class SplitModel(nn.Module):
    """A Llama whose upper layers carry an adapter.

    Attributes:
        prefix: Ids that lead every text.
        adapted: The layers with an adapter, by their names in the whole model.
    """

    def __init__(self, model: PreTrainedModel, prefix: Sequence[int], rank: int) -> None:
        """Take a loaded causal LM, which is changed in place; the upper third of its layers gets the adapter."""
        super().__init__()
        if computes_bfloat16("cpu"):
            model = model.to(torch.bfloat16)
        self.model = model.requires_grad_(False).eval()
        self.prefix = tuple(prefix)
        self.rank, self.alpha, self.lower = rank, 2 * rank, len(self._layers) * 2 // 3
        self.adapted: dict[str, LowRank] = {}
        if not rank:
            return
        for number in range(self.lower, len(self._layers)):
            for name, module in list(self._layers[number].named_modules()):
                if isinstance(module, nn.Linear):
                    place, _, attribute = name.rpartition(".")
                    adapted = LowRank(module, rank, self.alpha)
                    setattr(self._layers[number].get_submodule(place), attribute, adapted)
                    self.adapted[f"model.layers.{number}.{name}"] = adapted

    @property
    def _layers(self) -> Any:
        return self.model.model.layers

    def adapter(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for module in self.adapted.values() for p in (module.a, module.b)]

    @torch.inference_mode()
    def lower_states(self, texts: Sequence[Text]) -> list[Tensor]:
        """The states behind the lower layers: per text one [tokens, width], the shared prefix's last."""
        states: list[Tensor] = [torch.empty(0)] * len(texts)
        alone = Packed.of(self.prefix, [Text((), 0)], 0)
        prefix = self._forward(alone, self._embed(alone), 0, self.lower)[0]
        # texts of like length fill rows best
        order = sorted(range(len(texts)), key=lambda place: len(texts[place].ids))
        for start in range(0, len(order), _TOGETHER):
            batch = order[start : start + _TOGETHER]
            packed = Packed.of(self.prefix, [texts[i] for i in batch], _ROW)
            out = self._forward(packed, self._embed(packed), 0, self.lower)
            for i, (row, at) in zip(batch, packed.places, strict=True):
                states[i] = out[row, at : at + len(texts[i].ids)].clone()
        return [*states, prefix]

    def upper_states(self, texts: Sequence[Text], lower: Sequence[Tensor], prefix: Tensor) -> list[Tensor]:
        """The states behind all layers and the last norm: per text one [tokens, width]."""
        packed = Packed.of(self.prefix, texts, _ROW)
        states = prefix.new_zeros(*packed.ids.shape, prefix.shape[1])
        states[:, : len(prefix)] = prefix
        for one, (row, at) in zip(lower, packed.places, strict=True):
            states[row, at : at + len(one)] = one
        out = self.model.model.norm(self._forward(packed, states, self.lower, len(self._layers)))
        return [out[row, at : at + len(one)] for one, (row, at) in zip(lower, packed.places, strict=True)]

    def _embed(self, packed: Packed) -> Tensor:
        embedded: Tensor = self.model.model.embed_tokens(packed.ids)
        return embedded

    def _forward(self, packed: Packed, hidden: Tensor, first: int, last: int) -> Tensor:
        # on a CPU the fused kernel's backward pass takes longer than all products of the layer
        self.model.set_attn_implementation("eager" if torch.is_grad_enabled() else "sdpa")
        angles = self.model.model.rotary_emb(hidden, packed.positions)
        mask = torch.zeros(packed.mask.shape, dtype=hidden.dtype).masked_fill(~packed.mask, -torch.inf)[:, None]
        for layer in self._layers[first:last]:
            hidden = layer(
                hidden, attention_mask=mask, position_ids=packed.positions, position_embeddings=angles, use_cache=False
            )
        return hidden

    def save_adapter(self, out: Path, base: str, record: dict[str, Any]) -> None:
        """Write the adapter as peft lays it out, in bfloat16, with further entries of the config."""
        out.mkdir(parents=True, exist_ok=True)
        tensors = {f"{PREFIX}{name}.lora_A.weight": module.a for name, module in self.adapted.items()}
        tensors |= {f"{PREFIX}{name}.lora_B.weight": module.b for name, module in self.adapted.items()}
        packed = {name: t.detach().to(torch.bfloat16).contiguous() for name, t in tensors.items()}
        save_file(packed, out / ADAPTER_WEIGHTS)
        (out / ADAPTER_WEIGHTS).chmod(0o644)  # written so that only its owner may read it
        names = sorted({name.rpartition(".")[2] for name in self.adapted})
        config = {"peft_type": "LORA", "base_model_name_or_path": base, "bias": "none", "r": self.rank,
                  "lora_alpha": self.alpha, "target_modules": names,
                  "layers_to_transform": list(range(self.lower, len(self._layers))), **record}  # fmt: skip
        (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def cached_states(model: SplitModel, texts: Sequence[Text], folder: Path) -> list[Tensor]:
    """`lower_states`, read from a folder where an earlier run left them, and written there as they come."""
    known: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        known |= load_file(path)
    keys = [hashlib.sha256(repr(text.ids).encode()).hexdigest()[:24] for text in texts]
    missing = [place for place, key in enumerate(keys) if key not in known]
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), _SAVED):
        part = missing[start : start + _SAVED]
        *states, prefix = model.lower_states([texts[place] for place in part])
        fresh = {keys[place]: state for place, state in zip(part, states, strict=True)} | {"prefix": prefix}
        known |= fresh
        with whole(folder / f"{keys[part[0]]}.safetensors") as partial:
            save_file(fresh, partial)
        print(f"{folder.name}: lower layers of {start + len(part)}/{len(missing)} texts", flush=True)
    return [*(known[key] for key in keys), known["prefix"]]
