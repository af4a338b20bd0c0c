"""Small GGUF files, written with the package gguf as llama.cpp's converters write them."""

import json
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map, quants

from unit_tests.builders import byte_level_tokenizer
from unit_tests.families import VOCABULARY
from unit_tests.tiny_models import random_model

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def write_gguf(
    path: Path,
    model: Any = None,
    tokenizer: Any = None,
    quantization: str = "F32",
    template: str | None = TEMPLATE,
    architecture: str = "llama",
    entries: dict[str, Any] | None = None,
) -> Any:
    """Write a llama as GGUF.

    Args:
        path: The file.
        model: A llama; `None` for a random one.
        tokenizer: A byte-level one; `None` for `gguf_tokenizer`, `False` for none.
        quantization: Of all matrices.
        template: The chat template.
        architecture: What the file calls itself.
        entries: More metadata: texts, unsigned numbers and fractions.

    Returns:
        A model with the weights as they are after quantisation.
    """
    model = model or random_model()
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in (entries or {}).items():
        kinds = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        kinds[type(value)](key, value)
    if tokenizer is not False:
        _add_tokenizer(writer, tokenizer or gguf_tokenizer(), config.vocab_size)
        if template is not None:
            writer.add_chat_template(template)
    _add_tensors(writer, model, GGMLQuantizationType[quantization])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def gguf_tokenizer() -> Any:
    """A tokenizer whose tokens, the added ones too, have a row each in the tiny models."""
    return byte_level_tokenizer(vocab_size=VOCABULARY - 20)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Any, rows: int) -> None:
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {one["id"]: TokenType.CONTROL if one["special"] else TokenType.USER_DEFINED for one in spec["added_tokens"]}
    tokens = [f"[PAD{id}]" for id in range(rows)]
    kinds = [TokenType.UNUSED] * rows
    for token, id in tokenizer.get_vocab().items():
        tokens[id], kinds[id] = token, added.get(id, TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


@torch.no_grad()
def _add_tensors(writer: GGUFWriter, model: Any, kind: GGMLQuantizationType) -> None:
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    if config.rope_parameters["rope_type"] == "llama3":
        size = config.hidden_size // config.num_attention_heads
        plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2) / size)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.named_parameters():
        its_kind = kind if weight.ndim > 1 else GGMLQuantizationType.F32
        stored = quants.quantize(weight.numpy(), its_kind)
        weight.copy_(torch.from_numpy(quants.dequantize(stored, its_kind)))
        count = heads.get(name.split(".")[-2])
        if count is not None:
            # llama.cpp pairs neighbouring dimensions in its rotary embeddings, transformers the two halves
            half = len(stored) // count // 2
            stored = stored.reshape(count, 2, half, -1).swapaxes(1, 2).reshape(stored.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored, raw_dtype=its_kind)
