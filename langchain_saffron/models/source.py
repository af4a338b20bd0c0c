"""Where a model lies: a directory, a GGUF file, or on the hub, from which it is downloaded."""

import os
import re
from pathlib import Path

import torch

from langchain_saffron.errors import ModelLoadError, ModelNotFoundError
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG
from langchain_saffron.runtime.files import local_path

ModelSource = str | Path | torch.nn.Module

# a file within a repository of the hub
_HUB_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[^:]+\.gguf)", re.IGNORECASE)


def resolve_directory(path: str | Path, name: str, revision: str | None = None, hf_token: str | None = None) -> Path:
    """The local directory of `path`, downloaded from the hub if it is an id.

    Raises:
        ModelNotFoundError: There is no such directory, and the hub has no such id or cannot be reached.
    """
    directory = local_path(path)
    if directory.is_dir():
        return directory
    if directory.is_file():
        raise ModelLoadError(f"the {name} {str(path)!r} is a file, and has to be a directory")
    refuse_missing(path, name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), revision=revision, token=hf_token))
    except Exception as error:
        raise not_found(path, name, error) from error


def find_gguf(source: ModelSource, name: str, revision: str | None = None, hf_token: str | None = None) -> Path | None:
    """The GGUF file that a source names: a file here, `organisation/repository:file.gguf` on the hub, or a directory.

    Returns:
        The file, downloaded if it has to be; `None` where the source is something else.

    Raises:
        ModelNotFoundError: It names a GGUF file that is neither here nor on the hub.
        ModelLoadError: It is a directory with several GGUF files and no other checkpoint.
    """
    if isinstance(source, torch.nn.Module):
        return None
    path = local_path(source)
    if path.is_dir():
        return _only_gguf(path, name)
    if path.is_file():
        return path
    if named := _HUB_FILE.fullmatch(str(source)):
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(named["repository"], named["file"], revision=revision, token=hf_token))
        except Exception as error:
            raise not_found(source, name, error) from error
    if path.suffix.lower() == ".gguf":
        raise ModelNotFoundError(
            f"the {name} {str(source)!r} is not a file that exists (on the hub: organisation/repository:file.gguf)"
        )
    return None


def _only_gguf(directory: Path, name: str) -> Path | None:
    """The GGUF file of a directory that holds no other checkpoint."""
    files = sorted(directory.glob("*.gguf"))
    if not files or (directory / "config.json").exists() or (directory / ADAPTER_CONFIG).exists():
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelLoadError(f"the {name} {str(directory)!r} holds several GGUF files: pass one of {names}")
    return files[0]


def refuse_missing(source: str | Path, name: str) -> None:
    """Refuse a path that is plainly local and not there: it should not be looked for on the hub.

    Raises:
        ModelNotFoundError: It is such a path.
    """
    text = str(source)
    local = isinstance(source, Path) or text.startswith((".", "/", "~")) or os.sep * 2 in text or text.count("/") > 1
    if local or not text.strip():
        raise ModelNotFoundError(f"the {name} {text!r} is not a directory that exists")


def not_found(source: object, name: str, error: Exception) -> ModelNotFoundError:
    """What is said of a model that is neither here nor on the hub.

    Args:
        source: As it was named.
        name: What error messages call it.
        error: What the hub's client raised.
    """
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelNotFoundError(
        f"the {name} {str(source)!r} was not found: it is no directory here, and the hub gave: {first} "
        "(check the name; gated models need hf_token=; offline, pass a directory)"
    )
