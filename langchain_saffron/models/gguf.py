"""Models and tokenizers of GGUF files, by transformers' own reader: plain weights, as from any other checkpoint."""

import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.utils import logging

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.extras import GGUF
from langchain_saffron.models.gguf_header import GgufHeader
from langchain_saffron.models.gguf_reader import MAGIC, read_header
from langchain_saffron.models.gguf_rope import restore_rope

# bytes up to which a copy of a file takes less time than two walks of the package gguf through its token lists
_WORTH_COPYING = 2**30
# numbers that a model may hold beyond its weights: tables of positions, masks
_TABLES = 2**26
_TOKEN_LISTS = {f"tokenizer.ggml.{one}" for one in ("tokens", "token_type", "scores", "merges")}
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


def load_gguf_model(path: Path, name: str, kind: Any, dtype: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Load a file's weights, dequantised, into a plain model.

    Nothing beside the file is read: what else lies in its directory may belong to other models.

    Args:
        path: The file.
        name: What error messages call the model.
        kind: The transformers `Auto` class to load by.
        dtype: A torch dtype; `"auto"` takes what the file was made in, and bfloat16 where it is quantised.
        options: For transformers' `from_pretrained`.

    Returns:
        The model and transformers' report of the loading.

    Raises:
        ModelLoadError: The file is damaged, holds no whole model, or one that transformers' reader does not know.
        ExtraRequiredError: The package `gguf` is missing.
    """
    GGUF.require()
    header, what = read_header(path, name), f"the {name} {str(path)!r}"
    if "quantization_config" in options:
        raise ModelLoadError(f"{what}: a GGUF file is dequantised, and takes no quantization_config")
    _check_architecture(header, what)
    if not header.tensors:
        raise ModelLoadError(f"{what} holds no weights, only a vocabulary")
    # newer versions would keep the weights packed where kernels for that are installed
    if (config_class := getattr(transformers, "GgufConfig", None)) is not None:
        options = {**options, "quantization_config": config_class(dequantize=True)}
    if dtype == "auto":
        dtype = {"F32": torch.float32, "F16": torch.float16}.get(header.main_type, torch.bfloat16)
    with _readable(header) as (directory, file):
        config = AutoConfig.from_pretrained(directory, gguf_file=file)
        embeddings = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
        if embeddings is not None:
            config.vocab_size = embeddings.shape[0]
        restore_rope(config, header, what)
        _check_size(kind, config, header, what)
        _tune_reader()
        model, report = kind.from_pretrained(
            directory, gguf_file=file, config=config, dtype=dtype, output_loading_info=True, **options
        )
    model.name_or_path = model.config.name_or_path = str(path)
    _name_end_tokens(model, header)
    return model, report


def load_gguf_tokenizer(path: Path, name: str) -> Any:
    """Load a file's tokenizer, with its chat template, or several by name, if it has any.

    Raises:
        ModelLoadError: The file is damaged, or holds no tokenizer.
        ExtraRequiredError: The package `gguf` is missing.
    """
    GGUF.require()
    header = read_header(path, name)
    if not header.vocabulary:
        raise ModelLoadError(f"the {name} {str(path)!r} holds no tokenizer: pass tokenizer=")
    with TemporaryDirectory(prefix="saffron-") as directory:
        # AutoTokenizer would read the config as well, for which the package gguf takes many times as long
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, gguf_file=str(path.resolve()))
    tokenizer.name_or_path = str(path)
    if len(templates := header.chat_templates) > 1:
        # the reader takes the one without a name alone
        tokenizer.chat_template = templates
    return tokenizer


def _check_architecture(header: GgufHeader, what: str) -> None:
    """Refuse what transformers' reader does not know, before it reads anything."""
    reader = "transformers.modeling_gguf_pytorch_utils"
    known = set(GGUF.load(reader).GGUF_SUPPORTED_ARCHITECTURES)
    with suppress(ImportError):
        from transformers.integrations import gguf as newer

        known |= set(getattr(newer, "GGUF_CONFIG_ARCHS", ()))
    # sections of the metadata stand in the same list
    known -= {"general", "tokenizer"}
    if _plain(header.architecture) not in map(_plain, known):
        raise ModelLoadError(
            f"{what} has the architecture {header.architecture!r}, which transformers' GGUF reader does not know; it "
            f"reads {', '.join(sorted(known))}: take the model's own checkpoint, or update transformers"
        )


def _plain(architecture: str) -> str:
    # llama.cpp writes qwen2moe and gpt-oss, transformers qwen2_moe and gpt_oss
    return re.sub("[-_]", "", architecture)


def _check_size(kind: Any, config: Any, header: GgufHeader, what: str) -> None:
    """Refuse a file whose config asks for a larger model than its tensors make, before memory is taken for it."""
    with torch.device("meta"):
        empty = kind.from_config(config)
    needed = sum(tensor.numel() for tensor in (*empty.parameters(), *empty.buffers()))
    if needed > header.numbers + _TABLES:
        raise ModelLoadError(
            f"{what} is damaged or incomplete: by its metadata the model has {needed:,} numbers, and its tensors hold "
            f"{header.numbers:,}"
        )


@contextmanager
def _readable(header: GgufHeader) -> Iterator[tuple[str, str]]:
    """An otherwise empty directory, and a file that is quick to read: without the token lists, where that pays.

    The package gguf takes 36 µs for each of the hundreds of thousands of items in these lists, at every opening.
    """
    with TemporaryDirectory(prefix="saffron-", ignore_cleanup_errors=True) as directory:
        file = header.path.resolve()
        if header.size <= _WORTH_COPYING and shutil.disk_usage(directory).free > 2 * header.size:
            # the original is as good, where the disk fills up
            with suppress(OSError):
                file = _copy_without_tokens(header, Path(directory) / "model.gguf")
        yield directory, str(file)


def _copy_without_tokens(header: GgufHeader, copy: Path) -> Path:
    kept = [place for key, place in header.entries.items() if key not in _TOKEN_LISTS]
    key, rows = f"{header.architecture}.vocab_size", header.vocabulary
    more = b"" if key in header.entries or not rows else _entry(key, rows)
    with header.path.open("rb") as source, copy.open("wb") as target:
        target.write(MAGIC + struct.pack("<IQQ", header.version, len(header.tensors), len(kept) + bool(more)) + more)
        for begin, end in (*kept, header.table):
            source.seek(begin)
            target.write(source.read(end - begin))
        alignment = header.values.get("general.alignment", 32)
        target.write(bytes(-target.tell() % alignment))
        source.seek(header.start)
        shutil.copyfileobj(source, target, 2**24)
    return copy


def _entry(key: str, value: int) -> bytes:
    """An entry of the metadata, as the format has it."""
    text = key.encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<II", 4, value)


def _tune_reader() -> None:
    """Two things that the reader does not offer, and that change nothing of what it reads."""
    with suppress(ImportError, AttributeError):
        import gguf
        from transformers import modeling_gguf_pytorch_utils as reader

        # it draws tqdm's own bar; transformers' obeys those who disable it
        reader.tqdm = logging.tqdm
        # it makes the same table of names anew for every module, which takes longer than all the rest
        if not hasattr(gguf.get_tensor_name_map, "cache_info"):
            gguf.get_tensor_name_map = lru_cache(maxsize=4)(gguf.get_tensor_name_map)


def _name_end_tokens(model: Any, header: GgufHeader) -> None:
    """All tokens that end a turn, which the reader leaves at one."""
    ids = [header.values.get(f"tokenizer.ggml.{key}") for key in _END_TOKENS]
    found = list(dict.fromkeys(one for one in ids if isinstance(one, int)))
    if found and getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = found if len(found) > 1 else found[0]
