"""The multifurcation reward model: the predicted safety reward of every next token in one call."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langchain_saffron.errors import ModelLoadError, SettingsError
from langchain_saffron.models.apart import apart
from langchain_saffron.models.decoder import DEFAULT_CACHE_TOKENS, TrieDecoder
from langchain_saffron.models.loading import ModelSource, load_causal_lm, load_tokenizer, resolve_directory
from langchain_saffron.models.lora import merge_adapter
from langchain_saffron.models.template import RewardTemplate
from langchain_saffron.models.vocabulary import vocabulary_hash

FORMAT = 1
CONFIG_FILE = "mrm_config.json"
TENSOR_FILE = "mrm.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class MultifurcationRewardModel:
    """`M(s) = W f(s) + b` (SAFFRON paper, section 4.2): one reward for every token that could follow `s`.

    `W` is the frozen unembedding of the process reward model that the MRM was trained from, `f` its body
    with a low-rank adapter merged in, `b` a trained bias a token. `b` is applied inside the model, as the
    paper defines it.

    Attributes:
        decoder: The merged model over its trie cache.
        tokenizer: Its tokenizer, which shares the policy's ordinary tokens.
        bias: float32 tensor [vocabulary].
        seen: bool tensor [vocabulary]: tokens that occurred as a training target (section 4.3, eq. 7).
        template: How a conversation is written for it.
        safety_threshold: The calibrated reward above which an answer counts as safe, or `None`.
        details: The directory's other records: where the reward comes from, how it was trained.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        bias: torch.Tensor,
        seen: torch.Tensor,
        template: RewardTemplate | None = None,
        safety_threshold: float | None = None,
        details: dict[str, Any] | None = None,
        max_cache_tokens: int = DEFAULT_CACHE_TOKENS,
        attn_implementation: str | None = None,
        owned: bool = False,
    ) -> None:
        self.decoder = TrieDecoder(model, "reward model", max_cache_tokens, attn_implementation, owned)
        self.tokenizer = tokenizer
        device = self.decoder.device
        rows = self.decoder.vocabulary
        for what, tensor in (("bias", bias), ("seen mask", seen)):
            if tensor.shape != (rows,):
                raise ModelLoadError(
                    f"the reward model's {what} has shape {tuple(tensor.shape)}, but its base has {rows} tokens"
                )
        self.bias = bias.to(device=device, dtype=torch.float32)
        self.seen = seen.to(device=device, dtype=torch.bool)
        self.template = template or RewardTemplate.published()
        self.safety_threshold = safety_threshold
        self.details = details or {}

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        base: ModelSource | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        *,
        tokenizer: Any = None,
        max_cache_tokens: int = DEFAULT_CACHE_TOKENS,
        **load: Any,
    ) -> "MultifurcationRewardModel":
        """Load an MRM directory, in the published layout or ours.

        Args:
            path: A directory or hub id. Published: `adapter_config.json`, `adapter_model.safetensors`,
                `lm_head_bias.pt`, `unseen_mask.pt`. Ours: `mrm_config.json`, `mrm.safetensors`, and the
                adapter or merged weights.
            base: The base model (directory, hub id or loaded model); `None` takes the one that the
                directory names.
            device: Where the model runs.
            dtype: Of the weights; rewards are float32 all the same.
            tokenizer: For a loaded `base` without a name to load it from.
            max_cache_tokens: The KV cache's bound.
            **load: Further options of the loading (`revision`, `hf_token`, `trust_remote_code`, `device_map`,
                `attn_implementation`, `quantization_config`).

        Raises:
            ModelLoadError: A file is missing, damaged or of the wrong shape, or the base cannot be loaded.
        """
        directory = resolve_directory(path, "reward model", load.get("revision"), load.get("hf_token"))
        config = _read_config(directory)
        merged = (directory / "config.json").exists() and not (directory / ADAPTER_CONFIG).exists()
        source = base if base is not None else directory if merged else _named_base(directory, config)
        model = load_causal_lm(source, "reward model's base", device=device, dtype=dtype, **load)
        if not merged:
            # a loaded object stays its owner's: the adapter is merged into a copy
            model = copy.deepcopy(model) if isinstance(base, torch.nn.Module) else model
            apart(merge_adapter)(model, directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS)
        if tokenizer is None:
            tokenizer = load_tokenizer(
                source, "reward model's base", load.get("revision"), load.get("hf_token"), load.get("trust_remote_code")
            )
        bias, seen = _read_tensors(directory)
        template = config.get("template")
        return cls(
            model,
            tokenizer,
            bias,
            seen,
            template=RewardTemplate(**template) if template else RewardTemplate.published(),
            safety_threshold=config.get("safety_threshold"),
            details=config,
            max_cache_tokens=max_cache_tokens,
            attn_implementation=load.get("attn_implementation"),
            owned=not (merged and isinstance(base, torch.nn.Module)),
        )

    @apart
    @torch.inference_mode()
    def rewards(self, token_ids: Sequence[int]) -> torch.Tensor:
        """The predicted reward of every next token.

        Args:
            token_ids: Prompt and response so far, in the reward model's template, at least one token.

        Returns:
            float32 tensor [vocabulary]: `M(s)`, the bias applied, unmasked.
        """
        ids = torch.tensor([[int(token) for token in token_ids]], device=self.decoder.device)
        if ids.numel() == 0:
            raise SettingsError("rewards() needs at least one token")
        logits = self.decoder.model(input_ids=ids, use_cache=False).logits[0, -1]
        return logits.float() + self.bias

    def save_pretrained(
        self,
        path: str | Path,
        base_model: str | None = None,
        adapter: str | Path | None = None,
        **details: Any,
    ) -> None:
        """Write our MRM layout; nothing pickled.

        Args:
            path: The directory to write.
            base_model: The base's hub id, or its path relative to `path`; with `adapter` only.
            adapter: A directory with the adapter's two files; without it the merged weights are written.
            **details: Further entries of `mrm_config.json` (`reward_source`, `training`).
        """
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        if adapter is None:
            self.decoder.model.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)
        else:
            for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                if Path(adapter).resolve() != directory.resolve():
                    (directory / name).write_bytes((Path(adapter) / name).read_bytes())
        config = {
            **self.details,
            "format": FORMAT,
            "base_model": base_model,
            "template": self.template.model_dump(),
            "vocabulary_hash": vocabulary_hash(self.tokenizer),
            "safety_threshold": self.safety_threshold,
            **details,
        }
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file({"bias": self.bias.cpu().contiguous(), "seen": self.seen.cpu().contiguous()}, directory / TENSOR_FILE)
        # safetensors makes private files; a model directory is there to be shared
        (directory / TENSOR_FILE).chmod(0o644)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG_FILE
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ModelLoadError(f"{path} is not an MRM config of format {FORMAT}: update langchain-saffron")
    return config


def _named_base(directory: Path, config: dict[str, Any]) -> str:
    name = config.get("base_model")
    if name is None and (directory / ADAPTER_CONFIG).exists():
        name = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise ModelLoadError(f"{directory} names no base model: pass it as base= (reward_base= in ChatSaffron)")
    beside = directory / name
    return str(beside.resolve()) if beside.is_dir() else str(name)


def _read_tensors(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The bias and the mask of seen tokens, from either layout."""
    ours = directory / TENSOR_FILE
    if ours.exists():
        try:
            tensors = load_file(ours)
            return tensors["bias"], tensors["seen"].bool()
        except (SafetensorError, KeyError) as error:
            raise ModelLoadError(f"{ours} is damaged or incomplete ({error}): write the MRM again") from error
    return _read_pickled(directory / "lm_head_bias.pt").float(), ~_read_pickled(directory / "unseen_mask.pt").bool()


def _read_pickled(path: Path) -> torch.Tensor:
    """A tensor of the published layout, read without running any code that the file may hold."""
    if not path.exists():
        raise ModelLoadError(f"{path.parent} is no MRM directory: neither {TENSOR_FILE} nor {path.name} is there")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelLoadError(f"{path} is damaged, or holds more than a plain tensor: {error}") from error
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, torch.Tensor):
        raise ModelLoadError(f"{path} holds a {type(value).__name__} where a tensor was expected")
    return value.detach().flatten()
