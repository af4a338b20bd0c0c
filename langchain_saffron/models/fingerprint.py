"""Short names of what answers are computed with, so that caches can tell one from another."""

import hashlib
import json
import os
import uuid
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

# numbers of a tensor by which a change in place is noticed that torch does not count
_SAMPLES = 64

# objects that nothing else tells apart, by names of their own that are never used again
_names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
# by module: what was looked at, and what was read then
_read: weakref.WeakKeyDictionary[torch.nn.Module, tuple[Any, str]] = weakref.WeakKeyDictionary()
# the same of tokenizers
_read_tokenizers: weakref.WeakKeyDictionary[Any, tuple[Any, str]] = weakref.WeakKeyDictionary()


def fingerprint(value: Any, weights: bool = True) -> str:
    """The type of `value` and a hash of what it computes with.

    Objects of which that cannot be read, such as functions, are told apart as objects: no two of them share a
    fingerprint, in this process or another.

    Args:
        value: A model, reward model, tokenizer, engine, config or plain value.
        weights: Whether weights count. All of them are read, at a gigabyte a second and core, once for as long as they
            stay what they are.
    """
    return f"{type(value).__name__}:{_digest(value, weights)[:16]}"


def file_stamp(path: Path) -> str:
    """A hash of the names, sizes and times of a directory's files, or of one file: another one after any writing."""
    entries = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())
    found = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in entries]
    return hashlib.sha256(repr(found).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _digest(value: Any, weights: bool) -> str:
    parts = "\0".join(_parts(value, weights))
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()


def _parts(value: Any, weights: bool) -> Iterator[str]:
    yield f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "fingerprint_parts"):
        yield from (_digest(part, weights) for part in value.fingerprint_parts())
    elif value is None or isinstance(value, str | bytes | int | float | complex | torch.dtype | torch.device | Path):
        yield repr(value)
    elif isinstance(value, list | tuple):
        yield from (_digest(item, weights) for item in value)
    elif isinstance(value, dict):
        yield from sorted(f"{key!r}={_digest(item, weights)}" for key, item in value.items())
    elif isinstance(value, torch.Tensor):
        yield _read_tensor(value) if weights else str(value.shape)
    elif isinstance(value, torch.nn.Module):
        yield from _of_module(value, weights)
    elif hasattr(value, "get_vocab"):
        yield from _of_tokenizer(value)
    elif isinstance(value, BaseModel):
        yield value.model_dump_json()
    elif hasattr(value, "to_dict") and not isinstance(value, type):
        yield json.dumps(value.to_dict(), sort_keys=True, default=str)
    else:
        yield _own_name(value)


def _of_module(module: torch.nn.Module, weights: bool) -> Iterator[str]:
    for name in ("config", "generation_config", "peft_config"):
        yield _digest(getattr(module, name, None), weights)
    if not weights:
        return
    tensors = [*module.named_parameters(), *module.named_buffers()]
    looked_at = [(name, id(tensor), *_glance(tensor)) for name, tensor in tensors]
    before = _read.get(module)
    if before is None or before[0] != looked_at:
        # hashing leaves Python's lock alone
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = pool.map(_read_tensor, (tensor for _, tensor in tensors))
            named = [f"{name}:{found}" for (name, _), found in zip(tensors, hashes, strict=True)]
        _read[module] = before = looked_at, "\0".join(named)
    yield before[1]


def _of_tokenizer(tokenizer: Any) -> Iterator[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        looked_at = _glance_at_tokenizer(backend)
        before = _read_tokenizers.get(tokenizer)
        if before is None or before[0] != looked_at:
            # half a second where the vocabulary is large
            before = looked_at, hashlib.sha256(backend.to_str().encode("utf-8", "surrogatepass")).hexdigest()
            _read_tokenizers[tokenizer] = before
        yield before[1]
    else:
        yield json.dumps(sorted(tokenizer.get_vocab().items()))
        yield repr(sorted(getattr(tokenizer, "init_kwargs", {}).items(), key=lambda item: item[0]))
    yield repr(sorted((str(key), str(kept)) for key, kept in tokenizer.special_tokens_map.items()))
    yield repr(tokenizer.chat_template)
    yield repr([getattr(tokenizer, name, None) for name in ("add_bos_token", "add_eos_token")])


def _glance(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What changes with a tensor's numbers, at the price of reading a few of them."""
    version = None if tensor.is_inference() else tensor._version
    if tensor.is_mkldnn or tensor.is_meta or tensor.is_sparse:
        return version, None
    flat = tensor.detach().reshape(-1)
    picked = flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]
    return version, picked.tolist()


def _glance_at_tokenizer(backend: Any) -> tuple[Any, ...]:
    """What changes with a tokenizer: all of it but the vocabulary, of which a few tokens are read."""
    size = backend.get_vocab_size(with_added_tokens=True)
    picked = [backend.id_to_token(i) for i in range(0, size, max(1, size // _SAMPLES))]
    parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor, backend.decoder)
    states = [None if part is None else part.__getstate__() for part in parts]
    return size, picked, states, str(backend.get_added_tokens_decoder())


def _read_tensor(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        # it lies elsewhere, and comes when it is needed
        return f"{tuple(tensor.shape)} {uuid.uuid4().hex}"
    dense = tensor.detach().to_dense() if tensor.is_mkldnn or tensor.is_sparse else tensor.detach()
    numbers = dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(numbers).hexdigest()}"


def _own_name(value: Any) -> str:
    """A name that no other object has, or has had."""
    try:
        return _names.setdefault(value, uuid.uuid4().hex)
    except TypeError:
        # it cannot be remembered, and so is another one every time
        return uuid.uuid4().hex
