"""The base in two parts: frozen lower layers, whose states are computed once, and upper ones with an adapter.

Frozen weights and what lies between products are bfloat16 where the CPU has instructions for it; the adapter itself is
float32. Rows are short (`texts.plan`), so that one mask of a row costs little beside the products.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from langchain_saffron.models.lora import PREFIX
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from langchain_saffron.runtime.devices import computes_bfloat16
from langchain_saffron.smollm2.recipe.texts import Packed, Text

# frozen layers, of 30
LOWER = 20
# tokens in one forward of the lower layers
_ROW = 768


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

    def __init__(self, model: PreTrainedModel, prefix: Sequence[int], rank: int, lower: int = LOWER) -> None:
        """Take a loaded causal LM, which is changed in place."""
        super().__init__()
        if computes_bfloat16("cpu"):
            model = model.to(torch.bfloat16)
        self.model = model.requires_grad_(False).eval()
        self.prefix = tuple(prefix)
        self.rank, self.alpha, self.lower = rank, 2 * rank, lower
        self.adapted: dict[str, LowRank] = {}
        if not rank:
            return
        for number in range(lower, len(self._layers)):
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
    def lower_states(self, texts: Sequence[Text], report: str = "") -> list[Tensor]:
        """The states behind the lower layers: per text one [tokens, width], the shared prefix last."""
        empty = Text((), 0)
        states: list[Tensor] = [torch.empty(0)] * len(texts)
        prefix = self._forward(Packed.of(self.prefix, [empty]), None, 0, self.lower)
        for done, batch in enumerate(_rows(texts)):
            packed = Packed.of(self.prefix, [texts[i] for i in batch])
            out = self._forward(packed, None, 0, self.lower)
            for i, start in zip(batch, packed.starts, strict=True):
                states[i] = out[start : start + len(texts[i].ids)].clone()
            if report and done % 20 == 0:
                print(f"{report}: lower layers, row {done}", flush=True)
        return [*states, prefix]

    def upper_states(self, texts: Sequence[Text], lower: Sequence[Tensor], prefix: Tensor) -> tuple[Tensor, Packed]:
        """The states behind all layers and the last norm, [tokens, width], of texts in one row."""
        packed = Packed.of(self.prefix, texts)
        states = torch.cat([prefix, *lower])
        return self.model.model.norm(self._forward(packed, states, self.lower, len(self._layers))), packed

    def _forward(self, packed: Packed, states: Tensor | None, first: int, last: int) -> Tensor:
        body = self.model.model
        hidden = body.embed_tokens(packed.ids) if states is None else states
        hidden, positions = hidden[None], packed.positions[None]
        angles = body.rotary_emb(hidden, positions)
        mask = torch.zeros(packed.mask.shape, dtype=hidden.dtype).masked_fill(~packed.mask, -torch.inf)[None, None]
        for layer in self._layers[first:last]:
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=angles)
        return hidden[0]

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


def cached_states(model: SplitModel, texts: Sequence[Text], path: Path) -> list[Tensor]:
    """`lower_states`, read from `path` where an earlier run left them; texts that it knew are not computed again."""
    known = load_file(path) if path.exists() else {}
    keys = [hashlib.sha256(repr(text.ids).encode()).hexdigest()[:24] for text in texts]
    known = dict(known)
    missing = [i for i, key in enumerate(keys) if key not in known]
    if missing or "prefix" not in known:
        fresh = model.lower_states([texts[i] for i in missing], path.stem)
        known |= {keys[i]: state for i, state in zip(missing, fresh[:-1], strict=True)}
        known["prefix"] = fresh[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: state.clone().contiguous() for key, state in known.items()}, path)
    return [*(known[key] for key in keys), known["prefix"]]


def _rows(texts: Sequence[Text]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for index, text in enumerate(texts):
        if batch and size + len(text.ids) > _ROW:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += len(text.ids)
    if batch:
        yield batch
