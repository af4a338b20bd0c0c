"""The base of an MRM with an adapter to be trained."""

import warnings
from typing import Any

import torch

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.loading import load_causal_lm
from langchain_saffron.runtime.devices import computes_bfloat16
from langchain_saffron.runtime.threads import SMALL_MODEL
from langchain_saffron.training.partial_supervision import PartialSupervision
from langchain_saffron.training.settings import TrainSettings

# peft's word for all linear layers but the unembedding
_ALL_LINEAR = "all-linear"


def adapted_base(name: str, settings: TrainSettings, device: torch.device, load: dict[str, Any]) -> PartialSupervision:
    """The base with a fresh adapter, and everything else frozen.

    Args:
        name: The base: a hub id, a directory or a GGUF file.
        settings: Which layers are adapted, and how.
        device: Where it is trained.
        load: Further options of the loading.

    Raises:
        ModelLoadError: It cannot be loaded, or has no such layers.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    base = load_causal_lm(name, "base", device=str(device), dtype=settings.dtype, **load)
    torch.manual_seed(settings.seed)
    targets: Any = list(settings.target_modules) if settings.target_modules else None
    if targets == [_ALL_LINEAR]:
        # peft's word stands for those of all layers only
        targets = _ALL_LINEAR if settings.layers is None else _linear_names(base)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=targets,
        layers_to_transform=_last_layers(base, settings.layers),
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            # about a name that it looks up in transformers
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            # about GPT-2's layers, which it then treats as they need
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
            adapted = get_peft_model(base, config)
    except ValueError as error:
        raise ModelLoadError(
            f"no adapter can be put on {name}: {error} (--target-modules names its query and value projections)"
        ) from error
    head = base.get_output_embeddings()
    for layer, module in base.named_modules():
        if isinstance(module, LoraLayer) and (module is head or not isinstance(module.base_layer, Linear | Conv1D)):
            raise ModelLoadError(
                f"no adapter can be put on {layer}: --target-modules takes linear layers other than the unembedding"
            )
    narrow = settings.mixed_precision == "auto" and device.type == "cpu" and _gains_by_bfloat16(base)
    if narrow:
        # the fused kernel's backward pass takes as long there as all products of the layers
        base.set_attn_implementation("eager")
    # never in training mode: the base's own dropout would make the rewards noisy, and a resumed run differ
    return PartialSupervision(adapted.eval(), narrow).eval()


def _linear_names(base: Any) -> list[str]:
    """What the linear layers of a model are called, but for the unembedding."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = base.get_output_embeddings()
    linear = [name for name, one in base.named_modules() if isinstance(one, Linear | Conv1D) and one is not head]
    return sorted({name.rpartition(".")[2] for name in linear})


def _gains_by_bfloat16(base: Any) -> bool:
    """Whether a CPU trains faster in bfloat16: toys spend their time between the products."""
    return computes_bfloat16("cpu") and sum(p.numel() for p in base.parameters()) >= SMALL_MODEL


def _last_layers(base: Any, count: int | None) -> list[int] | None:
    """The numbers of the last layers; `None` for all."""
    if count is None:
        return None
    layers = base.config.get_text_config().num_hidden_layers
    return list(range(max(0, layers - count), layers))
