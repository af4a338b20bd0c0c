"""What a model can do, as `create_agent` and others ask before they use it: read from files, not from weights."""

import json
from pathlib import Path
from typing import Any

from langchain_saffron.grammar import grammars_available
from langchain_saffron.tools import detect_tool_format


def model_profile(
    directory: Path | None, tool_format: str, chat_template: str | None, max_tokens: int | None
) -> dict[str, Any]:
    """The profile of a chat model.

    Args:
        directory: Of the policy; `None` where it is not on this machine yet: then nothing is said about its tools.
        tool_format: The field of that name.
        chat_template: The field of that name.
        max_tokens: The longest answer, if that is set.
    """
    forced = grammars_available()
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
    template = chat_template if chat_template is not None else _template(directory)
    if not forced or tool_format != "auto" or template is not None:
        able = forced and (tool_format != "auto" or detect_tool_format(template or "", None) is not None)
        profile |= {"tool_calling": able, "tool_choice": able, "tool_call_streaming": able}
    if directory is not None and (context := _read(directory / "config.json").get("max_position_embeddings")):
        profile["max_input_tokens"] = context
        profile["max_output_tokens"] = max_tokens or context
    return profile


def _template(directory: Path | None) -> str | None:
    if directory is None:
        return None
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _read(directory / "tokenizer_config.json").get("chat_template", "")
    return template if isinstance(template, str) else json.dumps(template)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
