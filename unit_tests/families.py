"""Small configurations of many decoder families: full, sliding and hybrid attention, soft caps, sinks, experts, learned
positions, partial and scaled RoPE, shared and multi-query heads."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from transformers import (
    CodeGenConfig,
    Cohere2Config,
    CohereConfig,
    DeepseekV3Config,
    Exaone4Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    NemotronConfig,
    Olmo2Config,
    Olmo3Config,
    OPTConfig,
    PersimmonConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

VOCABULARY = 320

_TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 2}
_COMMON: dict[str, Any] = {
    **_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
_GPT: dict[str, Any] = {**_TOKENS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
_EXPERTS: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
_SCALED: dict[str, Any] = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}

FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_COMMON),
    "qwen3": lambda: Qwen3Config(**_COMMON, head_dim=8),
    "qwen2": lambda: Qwen2Config(**_COMMON),
    "mistral": lambda: MistralConfig(**_COMMON, sliding_window=7),
    "gemma3": lambda: Gemma3TextConfig(**_COMMON, head_dim=8, sliding_window=6, layer_types=_WINDOWS),
    "gpt2": lambda: GPT2Config(**_GPT, initializer_range=0.3),
    "gemma": lambda: GemmaConfig(**_COMMON, head_dim=8),
    "gemma2": lambda: Gemma2Config(**_COMMON, head_dim=8, sliding_window=6, layer_types=_WINDOWS),
    "llama-llama3-rope": lambda: LlamaConfig(
        **_COMMON, rope_parameters={**_SCALED, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    ),
    "llama-yarn-rope": lambda: LlamaConfig(**_COMMON, rope_parameters={**_SCALED, "rope_type": "yarn"}),
    "llama-linear-rope": lambda: LlamaConfig(
        **_COMMON, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "phi3": lambda: Phi3Config(**_COMMON, sliding_window=9),
    "phi": lambda: PhiConfig(**_COMMON, partial_rotary_factor=0.5),
    "gpt-neox": lambda: GPTNeoXConfig(
        **{k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}, rotary_pct=0.5
    ),
    "gpt-oss": lambda: GptOssConfig(
        **_COMMON, head_dim=8, sliding_window=6, layer_types=_WINDOWS, num_local_experts=4, num_experts_per_tok=2
    ),
    "opt": lambda: OPTConfig(
        **_TOKENS,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
        init_std=0.3,
    ),
    "starcoder2": lambda: Starcoder2Config(**_COMMON, sliding_window=7),
    "stablelm": lambda: StableLmConfig(**_COMMON, partial_rotary_factor=0.5),
    "cohere": lambda: CohereConfig(**_COMMON),
    "cohere2": lambda: Cohere2Config(**_COMMON, sliding_window=6, layer_types=_WINDOWS),
    "olmo2": lambda: Olmo2Config(**_COMMON),
    "olmo3": lambda: Olmo3Config(**_COMMON, sliding_window=6, layer_types=_WINDOWS),
    "granite": lambda: GraniteConfig(**_COMMON),
    "smollm3": lambda: SmolLM3Config(**_COMMON, no_rope_layers=[1, 0, 1]),
    "glm4": lambda: Glm4Config(**_COMMON, head_dim=8, partial_rotary_factor=0.5),
    "mixtral": lambda: MixtralConfig(**_COMMON, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": lambda: Qwen2MoeConfig(**_COMMON, **_EXPERTS, shared_expert_intermediate_size=32),
    "qwen3-moe": lambda: Qwen3MoeConfig(**_COMMON, **_EXPERTS, head_dim=8),
    "nemotron": lambda: NemotronConfig(**_COMMON),
    "exaone4": lambda: Exaone4Config(**_COMMON, sliding_window=6, layer_types=_WINDOWS),
    "persimmon": lambda: PersimmonConfig(**{k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}),
    "gpt-bigcode": lambda: GPTBigCodeConfig(**_GPT, multi_query=True, initializer_range=0.3),
}

# families whose attention not every version of transformers lets be replaced: where it cannot, one mask over all slots
FALLBACKS: dict[str, Callable[[], PretrainedConfig]] = {
    "falcon": lambda: FalconConfig(
        **_TOKENS,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        multi_query=False,
        alibi=False,
        max_position_embeddings=256,
        initializer_range=0.3,
    ),
    "deepseek-v3": lambda: DeepseekV3Config(
        **{**_COMMON, "num_key_value_heads": 4},
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        first_k_dense_replace=1,
        moe_intermediate_size=32,
        kv_lora_rank=8,
        q_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
    ),
    "gptj": lambda: GPTJConfig(**_GPT, rotary_dim=4, initializer_range=0.3),
    "codegen": lambda: CodeGenConfig(**_GPT, rotary_dim=4, initializer_range=0.3),
}

CORE = ["llama", "qwen3", "qwen2", "mistral", "gemma3", "gpt2"]


def mostly_slow(families: Iterable[str]) -> list[Any]:
    """All of them as parameters: the core and one fallback always run, the others, together, are slow."""
    quick = {*CORE, "falcon"}
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in families]
