"""How a GGUF file scales rotary positions: transformers' reader drops it, and the model would be worse unnoticed."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.gguf_header import GgufHeader, GgufTensor

# of Llama 3.1 to 3.3, whose files hold the frequencies' factors and not what they were computed from
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_LENGTH = 8192
# entries that say no more than what is read here
_READ = {"type", "factor", "original_context_length", "finetuned"}


def restore_rope(config: Any, header: GgufHeader, what: str) -> None:
    """Put the scaling of rotary positions into the config that transformers' reader has made.

    Args:
        config: The config, changed in place.
        header: The file's.
        what: What error messages call the model and its file.

    Raises:
        ModelLoadError: The scaling is of a kind that cannot be put into it.
    """
    prefix = f"{header.architecture}.rope.scaling."
    entries = {key.removeprefix(prefix): value for key, value in header.values.items() if key.startswith(prefix)}
    tensors = {tensor.name: tensor for tensor in header.tensors}
    kind = entries.get("type", "none")
    # the one that the reader takes over
    if header.architecture in ("gpt-oss", "gpt_oss"):
        return

    def unknown(how: str) -> ModelLoadError:
        return ModelLoadError(
            f"{what} scales its rotary positions by {how}, which cannot be read from a GGUF file: take the model's own "
            "checkpoint"
        )

    if any(name.startswith("rope_factors") for name in tensors):
        raise unknown("longrope")
    if (factors := tensors.get("rope_freqs.weight")) is not None:
        _restore_llama3(config, _numbers(header, factors), entries, unknown)
    elif kind != "none" and entries.get("factor", 1.0) != 1.0:
        if kind not in ("linear", "yarn") or entries.keys() - _READ:
            raise unknown(", ".join([str(kind), *sorted(entries.keys() - _READ)]))
        scaling = {"rope_type": kind, "factor": entries["factor"]}
        if kind == "yarn":
            scaling["original_max_position_embeddings"] = entries.get("original_context_length")
        _update(config, scaling)


def _restore_llama3(
    config: Any, factors: torch.Tensor, entries: dict[str, Any], unknown: Callable[[str], ModelLoadError]
) -> None:
    if bool((factors == 1).all()):
        return
    length = entries.get("original_context_length", _LLAMA3_LENGTH)
    plain = _frequencies(config)
    _update(config, {**_LLAMA3, "factor": float(factors.max()), "original_max_position_embeddings": length})
    if plain.shape != factors.shape or not torch.allclose(_frequencies(config) * factors, plain, rtol=1e-3):
        raise unknown("factors of their frequencies other than Llama 3's")


def _frequencies(config: Any) -> torch.Tensor:
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
    frequencies: torch.Tensor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")[0]
    return frequencies


def _update(config: Any, scaling: dict[str, Any]) -> None:
    parameters = config.rope_parameters
    # models with windows scale the positions of their full layers
    parameters.get("full_attention", parameters).update(scaling)
    config.rope_parameters = parameters


def _numbers(header: GgufHeader, tensor: GgufTensor) -> torch.Tensor:
    """The numbers of a small tensor that is not quantised."""
    with header.path.open("rb") as file:
        file.seek(header.start + tensor.end - tensor.bytes)
        return torch.frombuffer(bytearray(file.read(tensor.bytes)), dtype=torch.float32)
