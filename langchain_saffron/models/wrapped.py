"""Models that come inside something else: a pipeline, an adapter of peft, a compiled module."""

from typing import Any

import torch

from langchain_saffron.errors import UnsupportedModelError


def is_pipeline(source: Any) -> bool:
    """Whether this is a `transformers.pipeline`: an object that brings its model and tokenizer."""
    brings = isinstance(getattr(source, "model", None), torch.nn.Module) and hasattr(source, "tokenizer")
    return brings and not isinstance(source, torch.nn.Module | type)


def plain_model(model: Any, name: str) -> Any:
    """The transformers model itself; an adapter of peft stays at work inside it.

    Args:
        model: As it was passed.
        name: What error messages call it.

    Raises:
        UnsupportedModelError: The adapter works by a prompt of its own, or torch has quantised the layers.
    """
    while isinstance(inner := getattr(model, "_orig_mod", None), torch.nn.Module):
        # torch.compile's: it would compile anew for every shape of a tree
        model = inner
    if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise UnsupportedModelError(
                f"the {name} has an adapter that puts a learned prompt before every text, which a trie has no "
                "place for: use a LoRA adapter, or merge it"
            )
        return plain_model(model.get_base_model(), name)
    quantised = next((part for part in model.modules() if callable(getattr(part, "weight", None))), None)
    if quantised is not None:
        kind = type(quantised)
        raise UnsupportedModelError(
            f"the {name} was quantised by torch (quantize_dynamic): {kind.__module__}.{kind.__name__} has no plain "
            "weights to compute with. Pass the model as it was before, or quantization_config= for the loading"
        )
    return model
