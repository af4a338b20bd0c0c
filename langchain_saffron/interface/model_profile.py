"""What a model can do, as `create_agent` and others ask before they use it: read from files, not from weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_saffron.extras import GRAMMARS
from langchain_saffron.templates.thought_form import KNOWN_FORMS
from langchain_saffron.tools import detect_tool_format


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
    if file.is_file():
        template: Any = file.read_text(encoding="utf-8")
    else:
        template = _read(directory / "tokenizer_config.json").get("chat_template") or ""
    text = template if isinstance(template, str) else json.dumps(template)
    return ModelFacts(text, _read(directory / "config.json").get("max_position_embeddings"))


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
        able = forced and (tool_format != "auto" or detect_tool_format(template or "", None) is not None)
        profile |= {"tool_calling": able, "tool_choice": able, "tool_call_streaming": able}
    if template is not None:
        profile["reasoning_output"] = any(form.closing in template for form in KNOWN_FORMS)
    if facts.context:
        profile |= {"max_input_tokens": facts.context, "max_output_tokens": max_tokens or facts.context}
    return profile


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
