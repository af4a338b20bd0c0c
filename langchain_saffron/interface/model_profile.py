"""What a model can do, as `create_agent` and others ask before they use it: read from files, not from weights."""

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from langchain_saffron.errors import ExtraRequiredError, ModelLoadError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.models.adapted import adapter_directory
from langchain_saffron.models.gguf_reader import read_header
from langchain_saffron.models.mrm_files import named_base, read_config
from langchain_saffron.models.source import find_gguf
from langchain_saffron.runtime.files import local_path
from langchain_saffron.templates.thought_form import KNOWN_FORMS
from langchain_saffron.tools import detect_tool_format
from langchain_saffron.tools.form_probe import shows_tools


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a policy.

    Attributes:
        chat_template: Its text; `None` where that is not known.
        context: In tokens, if that is known.
        reasoning: Whether it writes thoughts before its answers, if that is known.
    """

    chat_template: str | None = None
    context: int | None = None
    reasoning: bool | None = None


# from the model cards and configs of those that are asked for most; the longest name that fits counts
_FAMILIES = {
    "llama-2": ModelFacts(context=4096),
    "llama-3": ModelFacts(context=8192),
    "llama-3.1": ModelFacts(context=131_072),
    "llama-3.2": ModelFacts(context=131_072),
    "llama-3.3": ModelFacts(context=131_072),
    "tinyllama": ModelFacts(context=2048),
    "mistral-7b-instruct-v0.2": ModelFacts(context=32_768),
    "mistral-7b-instruct-v0.3": ModelFacts(context=32_768),
    "mixtral-8x7b": ModelFacts(context=32_768),
    "qwen2.5": ModelFacts(context=32_768),
    "qwen3": ModelFacts(context=40_960, reasoning=True),
    "gemma-2": ModelFacts(context=8192),
    "gemma-3": ModelFacts(context=131_072),
    "gemma-3-1b": ModelFacts(context=32_768),
    "phi-4": ModelFacts(context=16_384),
    "phi-4-mini": ModelFacts(context=131_072),
    "olmo-2": ModelFacts(context=4096),
    "smollm2": ModelFacts(context=8192),
    "gpt-oss": ModelFacts(context=131_072, reasoning=True),
}

# of the same families, but with another context
_OTHERS = re.compile(r"2507|[-_](?:1m|coder|vl|omni|next|embedding|reranker)\b")


def known_facts(name: str) -> ModelFacts:
    """What is known of a model on the hub by its name."""
    own = name.rpartition("/")[2].lower()
    if _OTHERS.search(own):
        return ModelFacts()
    known = [family for family in _FAMILIES if re.match(rf"(?:meta-)?{re.escape(family)}(?![.\d]|b\b)", own)]
    return _FAMILIES[max(known, key=len)] if known else ModelFacts()


def mrm_context(directory: Path) -> int | None:
    """How many tokens a reward model has room for, where its files, or those of its base, are here."""
    here: int | None = _read(directory / "config.json").get("max_position_embeddings")
    if here is not None or not directory.is_dir():
        return here
    try:
        base = local_path(named_base(directory, read_config(directory)))
    except ModelLoadError:
        return None
    return _read(base / "config.json").get("max_position_embeddings")


def local_facts(source: Path | None) -> ModelFacts | None:
    """What the files of a policy tell; `None` where there are none on this machine.

    Args:
        source: A directory with a checkpoint, an adapter or a GGUF file, or such a file.
    """
    if source is None:
        return None
    try:
        if (adapter := adapter_directory(source)) is not None:
            name = named_base(adapter, {})
            base = local_facts(local_path(name) if local_path(name).exists() else None)
            own = _templates(adapter)
            facts = base or known_facts(name)
            return replace(facts, chat_template=template_for_tools(own)) if own else facts
        if (file := find_gguf(source, "policy")) is not None:
            stamp = file.stat()
            return _gguf_facts(file, stamp.st_size, stamp.st_mtime_ns)
    except (ModelLoadError, ExtraRequiredError):
        # said where it is loaded
        return None
    if not (source / "config.json").is_file():
        return None
    context = _read(source / "config.json").get("max_position_embeddings")
    return ModelFacts(template_for_tools(_templates(source)), context)


@lru_cache(maxsize=16)
def _gguf_facts(file: Path, size: int, changed: int) -> ModelFacts:
    """What a GGUF file tells, as it is now."""
    header = read_header(file, "policy")
    context = header.values.get(f"{header.architecture}.context_length")
    return ModelFacts(template_for_tools(header.chat_templates), context if isinstance(context, int) else None)


def _templates(directory: Path) -> Any:
    """The chat templates of a directory, in whichever of transformers' ways they are kept."""
    file = directory / "chat_template.jinja"
    named = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    if not file.is_file() and not named:
        return _read(directory / "tokenizer_config.json").get("chat_template")
    templates = {one.stem: one.read_text(encoding="utf-8") for one in named}
    if file.is_file():
        templates["default"] = file.read_text(encoding="utf-8")
    return templates


def template_for_tools(templates: Any) -> str:
    """The chat template that is used with tools, of one or of several by name; empty where there is none.

    Args:
        templates: A text, texts by name, or records of `name` and `template`.
    """
    if isinstance(templates, list):
        records = [record for record in templates if isinstance(record, dict)]
        templates = {record.get("name"): record.get("template") for record in records}
    if isinstance(templates, dict):
        templates = templates.get("tool_use") or templates.get("default")
    return templates if isinstance(templates, str) else ""


def model_profile(facts: ModelFacts, tool_format: str, max_tokens: int | None) -> dict[str, Any]:
    """The profile of a chat model.

    Args:
        facts: Of its policy. Where its template is not known, nothing is said about tools.
        tool_format: The field of that name.
        max_tokens: The longest answer, if that is set.
    """
    forced = GRAMMARS.available()
    profile: dict[str, Any] = {
        "text_inputs": True,
        "image_inputs": False,
        "audio_inputs": False,
        "video_inputs": False,
        "text_outputs": True,
        "structured_output": forced,
        "open_weights": True,
        "temperature": True,
    }
    template = facts.chat_template
    if not forced or tool_format != "auto" or template is not None:
        able = forced and (tool_format != "auto" or _writes_calls(template or ""))
        profile |= {"tool_calling": able, "tool_choice": able, "tool_call_streaming": able}
    reasons = any(form.closing in template for form in KNOWN_FORMS) if template is not None else facts.reasoning
    if reasons is not None:
        profile["reasoning_output"] = reasons
    if facts.context:
        profile |= {"max_input_tokens": facts.context, "max_output_tokens": max_tokens or facts.context}
    return profile


def _writes_calls(template: str) -> bool:
    return detect_tool_format(template, None) is not None and shows_tools(template)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
