"""Which thoughts a chat template writes and reads, found by asking it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from langchain_saffron.templates.message_forms import BLOCK, Message
from langchain_saffron.templates.thought_form import KNOWN_FORMS, ThoughtForm, with_answer_markers, written_form

# as a template may call a message's thoughts
FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
# switches of templates that may leave thoughts out
THINKING = {"enable_thinking": True, "thinking": True}

# a template that knows thoughts says one of these
_WORDS = ("think", "THINK", "thought", "reason")
_QUESTION, _THOUGHT, _ANSWER = "Qqqq", "Tttt", "Aaaa"
_CALL = {"type": "function", "id": "call12345", "function": {"name": "probe", "arguments": {"x": "y"}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}},
    },
}

_LAST_TAG = re.compile(r"(?:<[^<>]+>|\[[^\[\]]+\])\s*\Z")

Render = Callable[[list[Message], list[Any] | None, dict[str, Any]], str | None]


@dataclass(frozen=True, slots=True)
class TemplateThoughts:
    """What a chat template does with thoughts.

    Attributes:
        form: How they are marked; `None` where there are none.
        field: Under what name a message's thoughts are read; `BLOCK` for a part of the content, `None` for not at all.
        supposed: Whether only the tokenizer speaks for them: the template says nothing of thoughts.
    """

    form: ThoughtForm | None = None
    field: str | None = None
    supposed: bool = False


def probe_thoughts(render: Render, source: str, is_control: Callable[[str], bool]) -> TemplateThoughts:
    """Ask a chat template for its thoughts.

    Args:
        render: Renders messages with tools and variables; `None` where the template refuses them.
        source: The template's text.
        is_control: Tells whether a text is one of the tokenizer's control tokens.
    """
    found = _probed(render, source, is_control)
    return replace(found, form=with_answer_markers(found.form, source)) if found.form else found


def _probed(render: Render, source: str, is_control: Callable[[str], bool]) -> TemplateThoughts:
    mentioned = any(word in source for word in _WORDS)
    if not mentioned:
        return _known_in(source, "", is_control)
    user = {"role": "user", "content": _QUESTION}
    header = _header(render, user)
    # most templates show the thoughts of the latest answer, some only those that came with a call
    for field in (*FIELDS, BLOCK):
        spoken = render([user, _with_thought(_ANSWER, field)], None, THINKING)
        if spoken is not None and (form := _form_around(spoken, header)):
            return TemplateThoughts(form, field)
    for field in (*FIELDS, BLOCK):
        turn = {**_with_thought("", field), "tool_calls": [_CALL]}
        result = {"role": "tool", "name": "probe", "tool_call_id": _CALL["id"], "content": _ANSWER}
        called = render([user, turn, result], [_TOOL], {**THINKING, "add_generation_prompt": True})
        if called is not None and (known := _known_around(called)):
            return TemplateThoughts(known, field)
    return _known_in(source, header, is_control)


def _header(render: Render, user: Message) -> str:
    whole = render([user], None, {**THINKING, "add_generation_prompt": True})
    before = render([user], None, THINKING)
    return whole.removeprefix(before) if whole is not None and before is not None else ""


def _with_thought(content: str, field: str) -> Message:
    if field != BLOCK:
        return {"role": "assistant", "content": content, field: _THOUGHT}
    text = [{"type": "text", "text": content}] if content else []
    return {"role": "assistant", "content": [{"type": "thinking", "thinking": _THOUGHT}, *text]}


def _form_around(rendered: str, header: str) -> ThoughtForm | None:
    start = rendered.find(_THOUGHT)
    end = rendered.find(_ANSWER, start)
    question = rendered.rfind(_QUESTION, 0, max(start, 0))
    if start < 0 or end < 0 or question < 0:
        return None
    before, after = rendered[question + len(_QUESTION) : start], rendered[start + len(_THOUGHT) : end]
    if _THOUGHT in after or "'" in after or '"' in after:
        # it wrote the content's parts as Python or JSON writes them
        return None
    plain_header = _without_opening(header)
    place = before.rfind(plain_header) if plain_header.strip() else -1
    opening = before[place + len(plain_header) :] if place >= 0 else before
    if place < 0 and (last := _LAST_TAG.search(before)):
        # the header begins thoughts itself
        opening = last[0]
    return written_form(opening, after, plain_header)


def _without_opening(header: str) -> str:
    """An answer's header without the thought that it may begin."""
    for form in KNOWN_FORMS:
        place = header.find(form.opening.strip())
        if place >= 0:
            return header[:place]
    return header


def _known_around(rendered: str) -> ThoughtForm | None:
    start = rendered.find(_THOUGHT)
    if start < 0:
        return None
    before, after = rendered[:start].rstrip(), rendered[start + len(_THOUGHT) :].lstrip()
    return next(
        (f for f in KNOWN_FORMS if before.endswith(f.opening.strip()) and after.startswith(f.closing)),
        None,
    )


def _known_in(source: str, header: str, is_control: Callable[[str], bool]) -> TemplateThoughts:
    """A known form whose markers the template speaks of, or which the tokenizer has for control tokens."""
    for form in KNOWN_FORMS:
        if form.closing in source or form.closing in header:
            return TemplateThoughts(form)
    supposed = next((f for f in KNOWN_FORMS if is_control(f.opening) and is_control(f.closing)), None)
    return TemplateThoughts(supposed, supposed=supposed is not None)
