"""Loading of models and tokenizers: hub id, directory, GGUF file or loaded object, with errors that say what to do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from langchain_saffron.errors import ExtraRequiredError, ModelLoadError, ModelMemoryError
from langchain_saffron.models.adapted import adapter_base, adapter_directory
from langchain_saffron.models.gguf import load_gguf_model, load_gguf_tokenizer
from langchain_saffron.models.lora import merge_adapter
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from langchain_saffron.models.source import ModelSource, find_gguf, not_found, refuse_missing
from langchain_saffron.models.wrapped import plain_model
from langchain_saffron.runtime.devices import torch_dtype
from langchain_saffron.runtime.files import local_path
from langchain_saffron.runtime.memory import memory_errors
from langchain_saffron.runtime.threads import on_own_thread

SMALL_CHECKPOINT = 100 * 2**20


@on_own_thread
def load_causal_lm(
    source: ModelSource,
    name: str,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
    device_map: Any = None,
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    revision: str | None = None,
    trust_remote_code: bool | None = False,
    hf_token: str | None = None,
    kind: Any = AutoModelForCausalLM,
) -> Any:
    """Load a causal LM for inference.

    Args:
        source: A hub id, a directory, a GGUF file, or a loaded model, which is taken as it is (device and dtype too).
            The directory of an adapter stands for its base with the adapter merged in.
        name: What error messages call it.
        device: Where it runs, unless `device_map` says.
        dtype: A torch dtype or its name, or `"auto"` for the checkpoint's own.
        device_map: Passed to transformers.
        attn_implementation: `"sdpa"` or `"eager"`; others cannot take a tree's mask.
        quantization_config: Passed to transformers.
        revision: The hub's branch, tag or commit.
        trust_remote_code: Whether code in the checkpoint may run. Leave it off unless you read that code.
        hf_token: For gated or private models.
        kind: The transformers `Auto` class to load by, where it is not for a causal LM.

    Returns:
        The transformers model, in eval mode.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: It cannot be read, or its weights are incomplete.
        ModelMemoryError: It does not fit into memory.
    """
    if isinstance(source, torch.nn.Module):
        return plain_model(source, name).eval()
    if (adapter := adapter_directory(source)) is not None:
        model = load_causal_lm(
            adapter_base(adapter), f"{name}'s base", device=device, dtype=dtype, device_map=device_map,
            attn_implementation=attn_implementation, quantization_config=quantization_config, revision=revision,
            trust_remote_code=trust_remote_code, hf_token=hf_token, kind=kind,
        )  # fmt: skip
        merge_adapter(model, adapter / ADAPTER_CONFIG, adapter / ADAPTER_WEIGHTS)
        model.name_or_path = str(adapter)
        return model
    if attn_implementation not in (None, "sdpa", "eager"):
        raise ModelLoadError(
            f"attn_implementation={attn_implementation!r} cannot take the mask of a tree: use 'sdpa' or 'eager'"
        )
    gguf = find_gguf(source, name, revision, hf_token)
    if gguf is None and not local_path(source).is_dir():
        refuse_missing(source, name)
    options = {
        "revision": revision,
        "token": hf_token,
        "device_map": device_map,
        "attn_implementation": attn_implementation,
        "quantization_config": quantization_config,
        "trust_remote_code": bool(trust_remote_code),
    }
    given = {key: value for key, value in options.items() if value is not None}
    model = _read_weights(source, gguf, name, kind, dtype, given)
    if device_map is None and quantization_config is None:
        try:
            with memory_errors(_too_large(source, name)):
                model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ModelLoadError(f"the {name} cannot be moved to device {device!r}: {error}") from error
    return model.eval().requires_grad_(False)


def _read_weights(
    source: str | Path, gguf: Path | None, name: str, kind: Any, dtype: str | torch.dtype, options: dict[str, Any]
) -> Any:
    """A model, with all its weights, where transformers puts it.

    Raises:
        ModelLoadError: It cannot be read, or its weights are incomplete.
        ModelMemoryError: It does not fit into memory.
        ModelNotFoundError: There is no such model.
    """
    try:
        with memory_errors(_too_large(source, name)), _quiet_if_small(gguf or Path(source)):
            if gguf is not None:
                own = {key: options[key] for key in options.keys() - {"revision", "token", "trust_remote_code"}}
                model, report = load_gguf_model(gguf, name, kind, torch_dtype(dtype), own)
            else:
                model, report = kind.from_pretrained(
                    str(source), dtype=torch_dtype(dtype), output_loading_info=True, **options
                )
    except (ModelLoadError, ModelMemoryError, ExtraRequiredError):
        raise
    except Exception as error:
        raise _load_error(source, name, error) from error
    # transformers fills holes with random numbers and a log line; a safety component must not
    missing = sorted(report["missing_keys"]) + [key for key, *_ in report.get("mismatched_keys", ())]
    if missing:
        raise ModelLoadError(
            f"the {name} {str(source)!r} lacks {len(missing)} weights, first {missing[:3]}: the checkpoint is "
            "incomplete or belongs to another architecture"
        )
    return model


def load_tokenizer(
    source: ModelSource,
    name: str,
    revision: str | None = None,
    hf_token: str | None = None,
    trust_remote_code: bool | None = False,
) -> Any:
    """Load the tokenizer that belongs to `source`.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: It has none, or not a fast one.
    """
    if isinstance(source, torch.nn.Module):
        where = getattr(source, "name_or_path", "") or ""
        if not where:
            raise ModelLoadError(
                f"the {name} was passed as a loaded model that does not say where its tokenizer is: pass tokenizer="
            )
    else:
        where = str(source)
    if (adapter := adapter_directory(where)) is not None and not (adapter / "tokenizer.json").is_file():
        return load_tokenizer(adapter_base(adapter), f"{name}'s base", revision, hf_token, trust_remote_code)
    gguf = find_gguf(where, name, revision, hf_token)
    if gguf is None and not local_path(where).is_dir():
        refuse_missing(source if isinstance(source, Path) else where, name)
    try:
        if gguf is not None:
            return load_gguf_tokenizer(gguf, name)
        tokenizer = AutoTokenizer.from_pretrained(
            where, revision=revision or "main", token=hf_token, trust_remote_code=bool(trust_remote_code)
        )
    except (ModelLoadError, ExtraRequiredError):
        raise
    except Exception as error:
        raise _load_error(where, f"tokenizer of the {name}", error) from error
    if not tokenizer.is_fast:
        raise ModelLoadError(f"the {name} {where!r} has no fast tokenizer (tokenizer.json), which is needed")
    return tokenizer


@contextmanager
def _quiet_if_small(source: Path) -> Iterator[None]:
    """No progress bar for what loads in a blink."""
    files = [source] if source.is_file() else source.glob("*.safetensors")
    size = sum(file.stat().st_size for file in files)
    if not 0 < size < SMALL_CHECKPOINT or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _too_large(source: object, name: str) -> str:
    return (
        f"the {name} {str(source)!r} does not fit into memory: load it with dtype='bfloat16', with "
        "device_map='auto' or quantised, or take a smaller model"
    )


def _load_error(source: object, name: str, error: Exception) -> ModelLoadError:
    """What loading failed with: a damaged directory is another matter than none."""
    if missing := _missing_shard(local_path(source)):
        return ModelLoadError(
            f"the {name} {str(source)!r} is incomplete: its index names {missing!r}, which is not there: copy or "
            "download it again"
        )
    # transformers raises OSError for what the hub does not have, or what cannot be fetched from it
    if isinstance(error, OSError) and not local_path(source).exists():
        return not_found(source, name, error)
    return ModelLoadError(f"the {name} {str(source)!r} cannot be loaded: {error}")


def _missing_shard(directory: Path) -> str | None:
    """The first file that the index of a sharded checkpoint names and that its directory lacks."""
    for index in directory.glob("*.index.json") if directory.is_dir() else ():
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if missing := sorted(str(file) for file in files if not (directory / str(file)).is_file()):
            return missing[0]
    return None
