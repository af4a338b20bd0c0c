"""What a model can do, as `create_agent` and others ask before they use it: read from files, not from weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_saffron.extras import GRAMMARS
from langchain_saffron.templates.thought_form import KNOWN_FORMS
from langchain_saffron.tools import detect_tool_format
from langchain_saffron.tools.form_probe import shows_tools


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a policy.

    Attributes:
        chat_template: Its text; `None` where that is not known.
        context: In tokens, if that is known.
    """

    chat_template: str | None = None
    context: int | None = None


def local_facts(directory: Path | None) -> ModelFacts:
    """What the files of a policy tell; nothing where there are none on this machine."""
    if directory is None:
        return ModelFacts()
    file = directory / "chat_template.jinja"
    named = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    if file.is_file() or named:
        templates: Any = {one.stem: one.read_text(encoding="utf-8") for one in named}
        if file.is_file():
            templates["default"] = file.read_text(encoding="utf-8")
    else:
        templates = _read(directory / "tokenizer_config.json").get("chat_template")
    return ModelFacts(template_for_tools(templates), _read(directory / "config.json").get("max_position_embeddings"))


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
    if template is not None:
        profile["reasoning_output"] = any(form.closing in template for form in KNOWN_FORMS)
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
