"""`saffron info`: what is loaded."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_saffron.cli.options import Device, Dtype, Model, QuantizationOption, RewardBase, RewardModel, load_chat
from langchain_saffron.embedded import find_world
from langchain_saffron.settings import DEFAULT_SAFETY_THRESHOLD

if TYPE_CHECKING:
    from langchain_saffron.engine import SaffronEngine
    from langchain_saffron.models.decoder import TrieDecoder
    from langchain_saffron.models.reward_head import RewardHead


def info(
    model: Model = None,
    reward_model: RewardModel = None,
    reward_base: RewardBase = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: QuantizationOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Say what is loaded: sizes, vocabularies, context, reward, device; how long that took, and how much memory.

    For example:

    saffron info

    saffron info --model my-policy --reward-model my-mrm --json
    """
    options = {
        "model": model,
        "reward_model": reward_model,
        "reward_base": reward_base,
        "device": device,
        "dtype": dtype,
        "quantization": quantization,
        # a policy can be looked at without a reward model
        "effort": None if reward_model or find_world(model) else "off",
    }
    from langchain_saffron.runtime.memory import peak_memory

    begun = time.monotonic()
    chat = load_chat(options, told=not as_json)
    seconds = time.monotonic() - begun
    engine = chat.load()
    facts: dict[str, Any] = {"policy": {"name": chat.model_name, **decoder_facts(engine.policy), **file_facts(model)}}
    facts["reward_model"] = None
    if engine.reward_model is not None:
        facts["reward_model"] = {"name": reward_model or chat.model_name, **reward_facts(engine)}
    facts["loading"] = {"seconds": seconds, "peak_bytes": peak_memory()}
    print(json.dumps(facts) if as_json else _table(facts), flush=True)


def decoder_facts(decoder: "TrieDecoder") -> dict[str, Any]:
    """Size, shape and place of a model, and the bound of its cache."""
    parameters = list(decoder.model.parameters())
    head = next(iter(decoder.model.get_output_embeddings().parameters()))
    # a packed head is a copy of the embeddings that it is tied to: bytes, but no parameters of its own
    copied = decoder.model.config.tie_word_embeddings and head.is_mkldnn
    tokens = decoder.forest.capacity
    return {
        "architecture": type(decoder.model).__name__,
        "parameters": sum(p.numel() for p in parameters) - (head.numel() if copied else 0),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "vocabulary": decoder.vocabulary,
        "context": decoder.context,
        "device": str(decoder.device),
        "dtype": str(decoder.model.dtype).removeprefix("torch."),
        **({} if decoder.quantized is None else {"quantization": {"kind": "int8", **asdict(decoder.quantized)}}),
        "cache_tokens": tokens,
        "cache_bytes": tokens * _bytes_per_token(decoder),
    }


def file_facts(model: str | None) -> dict[str, Any]:
    """Of a GGUF file: its size, and the type of most of its numbers before they were dequantised."""
    from langchain_saffron.models.gguf_reader import read_header
    from langchain_saffron.models.source import find_gguf

    path = find_gguf(model, "policy") if model and not find_world(model) else None
    if path is None:
        return {}
    header = read_header(path, "policy")
    return {"file": "GGUF", "file_type": header.main_type, "file_bytes": header.size}


def reward_facts(engine: "SaffronEngine") -> dict[str, Any]:
    """The same of the reward model, and what its rewards mean.

    The safety threshold is the one that searches use where no other is asked for.
    """
    from langchain_saffron.models.reward_head import RewardHead

    mrm = engine.reward_model
    assert mrm is not None
    own = mrm.safety_threshold
    return {
        **(head_facts(mrm) if isinstance(mrm, RewardHead) else decoder_facts(mrm.decoder)),
        "seen_tokens": mrm.seen_tokens,
        "seen_share": float(mrm.seen.float().mean()),
        "mask": mrm.mask,
        "safety_threshold": DEFAULT_SAFETY_THRESHOLD if own is None else own,
        "safety_threshold_calibrated": own is not None,
        "reward_source": mrm.details.get("reward_source"),
    }


def head_facts(head: "RewardHead") -> dict[str, Any]:
    """The same of a head on the policy, which has no body and no cache of its own."""
    tensors = [*head.map.state_dict().values(), head.bias]
    return {
        "architecture": f"head on layer {head.layer} of the policy",
        "layer": head.layer,
        "parameters": head.parameters,
        "bytes": sum(one.numel() * one.element_size() for one in tensors),
        "vocabulary": len(head.bias),
        "context": head.decoder.context,
        "device": str(head.bias.device),
        "dtype": "float32",
        "cache_tokens": 0,
        "cache_bytes": 0,
    }


def _bytes_per_token(decoder: "TrieDecoder") -> int:
    config = decoder.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    held = decoder.pool.dtype or decoder.model.dtype
    return (3 if decoder.pool.is_upright else 2) * config.num_hidden_layers * heads * size * held.itemsize


def _table(facts: dict[str, Any]) -> str:
    lines = []
    for title, part in (("Policy", facts["policy"]), ("Reward model", facts["reward_model"])):
        if part is None:
            lines.append(f"{title}: none (searches need one; --effort off does not)")
            continue
        rows = {
            "architecture": f"{part['architecture']}, {part['parameters']:,} parameters, {_size(part['bytes'])}",
            "vocabulary": f"{part['vocabulary']:,} tokens",
            "context": f"{part['context']:,} tokens",
            "runs on": f"{part['device']}, {part['dtype']}" + _quantized(part),
            "cache": f"at most {part['cache_tokens']:,} tokens, {_size(part['cache_bytes'])}"
            if part["cache_tokens"]
            else "none: it reads the policy's",
        }
        if "file" in part:
            rows["file"] = f"{part['file']}, {_size(part['file_bytes'])}, mostly {part['file_type']}, dequantised"
        if "seen_tokens" in part:
            calibrated = "calibrated" if part["safety_threshold_calibrated"] else "the default: none is stored"
            rows["vocabulary"] += f", {part['seen_tokens']:,} ({part['seen_share']:.1%}) seen in training"
            rows["mask"] = f"{part['mask']}, where no other is asked for"
            rows["safe from"] = f"a reward of {part['safety_threshold']:g} ({calibrated})"
            rows["reward"] = part["reward_source"] or "its source is not recorded"
        lines.append(f"{title}: {part['name']}")
        lines += [f"  {label:<13} {value}" for label, value in rows.items()]
    loading = facts["loading"]
    peak = f", with at most {_size(loading['peak_bytes'])} of memory in use" if loading["peak_bytes"] else ""
    return "\n".join([*lines, f"Loaded in {loading['seconds']:.1f} s{peak}"])


def _quantized(part: dict[str, Any]) -> str:
    if "quantization" not in part:
        return ""
    found = part["quantization"]
    layers, kept = found["layers"], found["kept"]
    rewards = "seen_tokens" in part
    cost = _change(found["divergence"], rewards)
    beside = (
        "" if found["cache"] is None else f"; keys and values in bfloat16: {_change(found['cache'], rewards)} apart"
    )
    but = f", not {', '.join(kept[:3])}{' …' if len(kept) > 3 else ''}" if kept else ""
    return f"; {layers} of {layers + len(kept)} large linear layers in int8, which changes {cost}{but}{beside}"


def _change(amount: float, rewards: bool) -> str:
    return f"{amount:.1%} of its rewards' spread" if rewards else f"{amount:.3f} nats a token"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
