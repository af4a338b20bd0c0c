"""The multifurcation reward model: the predicted safety reward of every next token in one call."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from langchain_saffron.embedded import named_part
from langchain_saffron.errors import ModelLoadError, SettingsError
from langchain_saffron.models.adapted import offline_base
from langchain_saffron.models.decoder import DEFAULT_CACHE_TOKENS, TrieDecoder
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.lora import merge_adapter
from langchain_saffron.models.mrm_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    named_base,
    read_config,
    read_tensors,
    write_mrm_files,
)
from langchain_saffron.models.mrm_quality import warn_of_weaknesses
from langchain_saffron.models.quantization import check_quantization, sample_ids
from langchain_saffron.models.source import ModelSource, resolve_directory
from langchain_saffron.models.trained_rewards import TrainedRewards
from langchain_saffron.runtime.threads import on_own_thread
from langchain_saffron.settings import Quantization
from langchain_saffron.templates.reward_template import RewardTemplate

# what no reward is beyond: logits of a guard differ by tens
MOST_REWARD = 1e4


class MultifurcationRewardModel(TrainedRewards):
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
        quantization: Quantization | None = None,
    ) -> None:
        text = None if quantization is None else sample_ids(tokenizer, model.get_input_embeddings().weight.shape[0])
        self.decoder = TrieDecoder(model, "reward model", max_cache_tokens, attn_implementation, owned, text)
        # rewards are needed of few tokens, and the product with the whole vocabulary is a good part of a forward
        self.decoder.split()
        self.tokenizer = tokenizer
        device = self.decoder.device
        rows = self.decoder.vocabulary
        for what, tensor in (("bias", bias), ("seen mask", seen)):
            if tensor.shape != (rows,):
                raise ModelLoadError(
                    f"the reward model's {what} has shape {tuple(tensor.shape)}, but its base has {rows} tokens"
                )
        if not bool((bias.abs() <= MOST_REWARD).all()):
            raise ModelLoadError(
                f"the reward model's bias holds NaN, infinity or numbers beyond ±{MOST_REWARD:g}: it is damaged"
            )
        if safety_threshold is not None and not _is_finite(safety_threshold):
            raise ModelLoadError(f"the reward model's safety_threshold is {safety_threshold!r}, not a finite number")
        self.bias = bias.to(device=device, dtype=torch.float32)
        self.seen = seen.to(device=device, dtype=torch.bool)
        self.template = template or RewardTemplate.for_tokenizer(tokenizer)
        if self.template.add_bos and tokenizer.bos_token_id is None:
            raise ModelLoadError(
                "the reward model's template begins with a BOS token, but its tokenizer has none: give a template with "
                "add_bos=False (RewardTemplate.for_tokenizer), if it was trained so"
            )
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
        quantization: Quantization | None = None,
        **load: Any,
    ) -> "MultifurcationRewardModel":
        """Load an MRM directory, in the published layout or ours.

        Args:
            path: A directory or hub id. Published: `adapter_config.json`, `adapter_model.safetensors`,
                `lm_head_bias.pt`, `unseen_mask.pt`. Ours: `mrm_config.json`, `mrm.safetensors`, and the
                adapter or merged weights.
            base: The base model (directory, GGUF file, hub id or loaded model); `None` takes the one that the
                directory names.
            device: Where the model runs.
            dtype: Of the weights; rewards are float32 all the same.
            tokenizer: For a loaded `base` without a name to load it from.
            max_cache_tokens: The KV cache's bound.
            quantization: `"int8"` for weights in int8, on a CPU.
            **load: Further options of the loading (`revision`, `hf_token`, `trust_remote_code`, `device_map`,
                `attn_implementation`, `quantization_config`).

        Raises:
            ModelLoadError: A file is missing, damaged or of the wrong shape, or the base cannot be loaded.
            SettingsError: A quantization that does not go with the rest.
        """
        check_quantization(quantization, device, dtype, load.get("device_map"), load.get("quantization_config"))
        path = named_part(path, "reward_model")
        directory = resolve_directory(path, "reward model", load.get("revision"), load.get("hf_token"))
        config = read_config(directory)
        if config.get("kind") == "head":
            raise ModelLoadError(
                f"{directory} holds a head, which has no model of its own: pass it as reward_model= beside the policy "
                "that it was trained on (ChatSaffron, SaffronEngine)"
            )
        # what is damaged should not cost the model's loading
        bias, seen = read_tensors(directory)
        template = RewardTemplate.of_record(config.get("template"), directory) or RewardTemplate.published()
        warn_of_weaknesses(directory, int(seen.sum()), len(seen), config)
        source, merged = _base_of(directory, config, base)
        model = load_causal_lm(source, "reward model's base", device=device, dtype=dtype, **load)
        if not merged:
            # a loaded object stays its owner's: the adapter is merged into a copy
            model = copy.deepcopy(model) if isinstance(base, torch.nn.Module) else model
            on_own_thread(merge_adapter)(model, directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS)
        if tokenizer is None:
            tokenizer = load_tokenizer(
                source, "reward model's base", load.get("revision"), load.get("hf_token"), load.get("trust_remote_code")
            )
        return cls(
            model,
            tokenizer,
            bias,
            seen,
            template=template,
            safety_threshold=config.get("safety_threshold"),
            details=config,
            max_cache_tokens=max_cache_tokens,
            attn_implementation=load.get("attn_implementation"),
            owned=not (merged and isinstance(base, torch.nn.Module)),
            quantization=quantization,
        )

    @staticmethod
    def tokenizer_of(path: str | Path, base: ModelSource | None = None, **load: Any) -> Any:
        """The tokenizer of an MRM directory, whose files but the weights are looked at; arguments as above.

        Raises:
            ModelLoadError: A file is missing or damaged, or there is no such base.
        """
        revision, token = load.get("revision"), load.get("hf_token")
        directory = resolve_directory(named_part(path, "reward_model"), "reward model", revision, token)
        config = read_config(directory)
        read_tensors(directory)
        RewardTemplate.of_record(config.get("template"), directory)
        source, _ = _base_of(directory, config, base)
        return load_tokenizer(source, "reward model's base", revision, token, load.get("trust_remote_code"))

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its rewards depend on, for `models.fingerprint`."""
        return (
            self.decoder.model, self.bias, self.seen, self.tokenizer, self.template, self.safety_threshold, self.mask,
            self.error,
        )  # fmt: skip

    @on_own_thread
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
        write_mrm_files(
            directory,
            self.bias,
            self.seen,
            self.tokenizer,
            self.template,
            self.safety_threshold,
            base_model,
            {**self.details, **details},
        )


def _base_of(directory: Path, config: dict[str, Any], base: ModelSource | None) -> tuple[ModelSource, bool]:
    """Where the weights of an MRM's body lie, and whether its adapter is merged into them already."""
    merged = (directory / "config.json").exists() and not (directory / ADAPTER_CONFIG).exists()
    if base is not None:
        return base, merged
    return directory if merged else offline_base(named_base(directory, config)), merged


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
