"""Which models classify, a whole text or each of its tokens, and by which class they are loaded."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from langchain_saffron.models.adapted import adapter_base, has_head
from langchain_saffron.models.source import ModelSource, find_gguf
from langchain_saffron.models.stream_guard import ARCHITECTURE, StreamGuard
from langchain_saffron.runtime.files import local_path

# by how an architecture's name ends
_KINDS = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    ARCHITECTURE: StreamGuard,
    StreamGuard.__name__: StreamGuard,
}


def is_classifier(model: ModelSource, load: dict[str, Any]) -> bool:
    """Whether a model's config names it as one that classifies, a text or each of its tokens.

    Args:
        model: A hub id, a directory, a GGUF file or a loaded model.
        load: Options of the loading, of which `revision` and `hf_token` count.
    """
    return has_head(model) or _kind(model, load) is not None


def is_encoder(model: ModelSource, load: dict[str, Any]) -> bool:
    """Whether a model classifies texts that it reads from both ends; the arguments are `is_classifier`'s.

    One that labels tokens so is none: loading it as a decoder says what is wrong.
    """
    if isinstance(model, torch.nn.Module) or has_head(model):
        return False
    return _kind(model, load) is AutoModelForSequenceClassification and not hasattr(
        _config(model, load), "num_key_value_heads"
    )


def loading_class(model: ModelSource, load: dict[str, Any]) -> Any:
    """The class that loads a classifier, or the causal LM that the head of its adapter belongs to.

    Args:
        model: A hub id, a directory or a loaded model.
        load: Options of the loading, of which `revision` and `hf_token` count.
    """
    if not has_head(model):
        return _kind(model, load) or AutoModelForSequenceClassification
    # whose own head, if it has one, the adapter's takes the place of
    classifies = is_classifier(adapter_base(local_path(model)), load)
    return AutoModelForSequenceClassification if classifies else AutoModelForCausalLM


def _kind(model: ModelSource, load: dict[str, Any]) -> Any:
    """The class that loads a classifier; `None` if the model is none."""
    if isinstance(model, torch.nn.Module):
        names = [type(model).__name__]
    elif find_gguf(model, "process reward model", load.get("revision"), load.get("hf_token")) is not None:
        # the format has no place for a head's labels
        return None
    else:
        try:
            names = _config(model, load).architectures or []
        except Exception:
            # loading it will say what is wrong
            return None
    return next((kind for name in names for ending, kind in _KINDS.items() if name.endswith(ending)), None)


def _config(model: ModelSource, load: dict[str, Any]) -> Any:
    options = {"revision": load.get("revision"), "token": load.get("hf_token")}
    return AutoConfig.from_pretrained(str(model), **{key: value for key, value in options.items() if value})
