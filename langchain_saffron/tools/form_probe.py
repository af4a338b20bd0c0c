"""The form in which a chat template writes tool calls, found by rendering calls whose texts occur nowhere else."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

from langchain_saffron.tools.call_form import CallForm, JsonArguments, Parameters, Part, Slot
from langchain_saffron.tools.call_pieces import numbered, taken_apart
from langchain_saffron.tools.parameter_probe import probe_parameters

_NAMES = ("zqfa", "zqfb", "zqfc")
_IDS = ("zqid00001", "zqid00002", "zqid00003")
_ASKED, _SAID = "zqasked", "zqsaid"
_ARGUMENTS = {"zqka": 717, "zqkb": ["x", {"y": None}], "zqkc": "zqvé"}
# what ends a turn, which is not the call's own
_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>", "<|end|>", "<|call|>", "<|calls|>", "<|return|>",
    "<|end_of_text|>", "<|endoftext|>", "<|END_OF_TURN_TOKEN|>", "<|tool_response>", "<|message_sep|>", "<|eos|>",
    "<end_of_turn>", "<turn|>", "<｜end▁of▁sentence｜>", "<end_of_sentence>", "</s>", "<seed:eos>", "[e~[",
    "<|role_end|>", "<|observation|>", "<|user|>",
)  # fmt: skip

_MARKER = re.compile(r"<[^<>\s]+>")
_NAMED_END = re.compile(r"<[|｜][^<>\s]*(?:eos|end[_▁]of)[^<>\s]*>")

Render = Callable[[list[dict[str, Any]], bool], str]


def probe_form(source: str, tokenizer: Any = None) -> CallForm | None:
    """The form of a template's calls; `None` where it writes none, or in a form that cannot be told.

    Args:
        source: The template's text.
        tokenizer: Its tokenizer, if that is loaded.
    """
    bos = getattr(tokenizer, "bos_token", None) or "<zqbos>"
    eos = getattr(tokenizer, "eos_token", None) or "<zqeos>"
    return _probe(source, bos, eos)


@lru_cache(maxsize=64)
def shows_tools(source: str) -> bool:
    """Whether a template shows tools to its model; where it cannot be asked, whether it speaks of them."""
    render = _renderer(source, "<zqbos>", "<zqeos>")
    for parts in (False, True):
        messages = [
            {"role": role, "content": [{"type": "text", "text": _SAID}] if parts else _SAID}
            for role in ("system", "user")
        ]
        for asked in (messages, messages[1:]):
            try:
                return all(name in render(asked, True) for name in _NAMES)
            except Exception:  # a template is a program: whatever it raises, so it cannot be asked
                continue
    return "tools" in source


@lru_cache(maxsize=64)
def _probe(source: str, bos: str, eos: str) -> CallForm | None:
    if "tool_call" not in source and "function" not in source:
        return None
    render = _renderer(source, bos, eos)
    for as_text, parts in product((False, True), repeat=2):
        try:
            prober = _Prober(render, eos, as_text, parts)
            if form := prober.form():
                return form
        except Exception:  # a template is a program: whatever it raises, this way it cannot be asked
            continue
    return None


def _renderer(source: str, bos: str, eos: str) -> Render:
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = [_tool(name) for name in _NAMES]

    def render(messages: list[dict[str, Any]], answer: bool) -> str:
        rendered = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=source,
            add_generation_prompt=answer,
            bos_token=bos,
            eos_token=eos,
            pad_token="",
            unk_token="",
        )
        text = rendered[0][0] if isinstance(rendered, tuple) else rendered[0]
        return str(text)

    return render


def _tool(name: str) -> dict[str, Any]:
    properties = {"zqka": {"type": "integer", "description": "A number."}}
    parameters = {"type": "object", "properties": properties, "required": ["zqka"]}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


class _Prober:
    """Asks a template for one way of giving it calls."""

    def __init__(self, render: Render, eos: str, as_text: bool, parts: bool) -> None:
        self._render = render
        self._as_text, self._parts = as_text, parts
        self._question = self._said("user", _ASKED)
        self._header = render([self._question], True)
        plain = render([self._question, self._said("assistant", _SAID)], False)
        self._plain_head, found, self._tail = plain.partition(_SAID)
        if not found:
            self._plain_head = self._tail = ""
        self._answer_header = self._header.rpartition(_ASKED)[2]
        self._ends = (eos, *_ENDS, *_MARKER.findall(self._tail)[:1])

    def form(self) -> CallForm | None:
        body = self.body(_ARGUMENTS)
        if repr(_ARGUMENTS) in body:  # it takes arguments as text only
            return None
        found = self._json(body) or self._parameters()
        if found is None:
            return None
        arguments, opening, call, closing = found
        try:
            between, opening, call = self._several(arguments, opening, call, closing)
        except Exception:  # many templates raise at a second call
            between = None
        lead, opening = self._lead(opening)
        if not opening.strip() or Slot.NAME not in call:
            return None
        form = CallForm(opening, call, self._without_end(closing), between, arguments, lead)
        return form if self._is_faithful(form) else replace(form, faithful=False)

    def _is_faithful(self, form: CallForm) -> bool:
        given = {"zqka": "zq 'va' \\ \"", "zqkb": 717}
        return form.write([(_NAMES[0], given, _IDS[0])]) in self.body(given)

    def body(self, *arguments: dict[str, Any]) -> str:
        """What a template writes for calls with these arguments, from its header on."""
        calls = [
            {
                "type": "function",
                "id": _IDS[place],
                "function": {
                    "name": _NAMES[place],
                    "arguments": json.dumps(one, ensure_ascii=False) if self._as_text else one,
                },
            }
            for place, one in enumerate(arguments)
        ]
        message = {**self._said("assistant", ""), "tool_calls": calls}
        whole = self._render([self._question, message], False)
        body = whole[self._start(whole) :].removesuffix(self._tail)
        # some write ids once there are results
        if _IDS[0] not in body and (longer := self._with_results(message)) is not None:
            return longer
        return body

    def _with_results(self, message: dict[str, Any]) -> str | None:
        """The same before results; `None` where that makes no difference."""
        calls = message["tool_calls"]
        results = [
            {**self._said("tool", "zqdone"), "tool_call_id": call["id"], "name": call["function"]["name"]}
            for call in calls
        ]
        try:
            whole = self._render([self._question, message, *results], False)
        except Exception:  # then it is asked without them
            return None
        body, found, _ = whole[self._start(whole) :].partition("zqdone")
        last = body.rfind(calls[-1]["id"])
        if not found or last < 0:
            return None
        ends = [place for end in (self._tail, *self._ends) if end and (place := body.find(end, last)) >= 0]
        return body[: min(ends)] if ends else None

    def _said(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self._parts else text}

    def _start(self, whole: str) -> int:
        for head in (self._header, self._plain_head):
            if head and whole.startswith(head):
                self._exact = True
                return len(head)
        # the prompt holds what a history leaves out, such as thoughts
        self._exact = False
        asked = whole.rfind(_ASKED) + len(_ASKED)
        if asked >= len(_ASKED) and whole.startswith(self._answer_header, asked):
            return asked + len(self._answer_header)
        place = next((i for i, (a, b) in enumerate(zip(whole, self._header, strict=False)) if a != b), len(whole))
        marker = whole.rfind("<", 0, place)
        return marker if marker >= 0 and ">" not in whole[marker:place] else place

    def _json(self, body: str) -> tuple[JsonArguments, str, tuple[Part, ...], str] | None:
        for item, key, ascii in ((", ", ": ", False), (", ", ": ", True), (",", ":", False), (",", ":", True)):
            style = JsonArguments(item, key, ascii)
            written = style.write(_ARGUMENTS)
            place = body.find(written)
            if place >= 0:
                opening, call, closing = taken_apart(body, _NAMES[0], _IDS[0], (place, len(written)))
                return style, opening, call, closing
        return None

    def _parameters(self) -> tuple[Parameters, str, tuple[Part, ...], str] | None:
        marks = [_NAMES[0], _IDS[0]]
        style = probe_parameters(self.body, marks)
        if style is None:
            return None
        body = self.body({"zqka": 717})
        written = f"{style.opening}zqka{style.middle}717{style.closing}"
        place = body.find(written)
        if place < 0:
            return None
        opening, call, closing = taken_apart(body, _NAMES[0], _IDS[0], (place, len(written)))
        return style, opening, call, closing

    def _several(
        self, arguments: JsonArguments | Parameters, opening: str, call: tuple[Part, ...], closing: str
    ) -> tuple[str | None, str, tuple[Part, ...]]:
        """What stands between calls, and the call with the slot of its number, if it has one."""
        body = self.body({"zqka": 717}, {"zqka": 717}, {"zqka": 717})
        if isinstance(arguments, Parameters):
            written = f"{arguments.opening}zqka{arguments.middle}717{arguments.closing}"
        else:
            written = json.dumps({"zqka": 717}, separators=(arguments.item, arguments.key))
        pieces = []
        for name, identifier in zip(_NAMES, _IDS, strict=True):
            place = body.find(written)
            first = body.find(name)
            if place < 0 or first < 0:
                return None, opening, call
            # up to where this call's last slot ends
            end = max(place + len(written), body.rfind(name) + len(name), body.rfind(identifier) + len(identifier))
            pieces.append(taken_apart(body[:end], name, identifier, (place, len(written))))
            body = body[end:]
        (before, one, _), (between, two, _), (again, three, _) = pieces
        if body != closing or any(end in between for end in self._ends if end):
            return None, opening, call
        if (one, between) == (two, again) == (three, between) and one == call and before == opening:
            return between, opening, call
        return numbered(pieces, opening, call)

    def _lead(self, opening: str) -> tuple[str, str]:
        inner = opening.lstrip()
        lead = opening[: len(opening) - len(inner)]
        for end in ("</think>", "</thinking>", "[/THINK]", "<|END_THINKING|>", "<channel|>"):
            if end in inner:
                place = inner.index(end) + len(end)
                rest = inner[place:]
                lead, inner = lead + inner[:place] + rest[: len(rest) - len(rest.lstrip())], rest.lstrip()
        # a blank before a word is a part of it
        if lead.endswith(" ") and not lead.strip() and not inner.startswith(("<", "[")):
            return "", lead + inner
        return (lead if self._exact else ""), inner

    def _without_end(self, closing: str) -> str:
        places = [place for end in self._ends if end and (place := closing.find(end)) >= 0]
        if named := _NAMED_END.search(closing):
            places.append(named.start())
        return closing[: min(places)] if places else closing
