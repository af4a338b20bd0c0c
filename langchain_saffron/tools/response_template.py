"""Calls in whatever form the tokenizer's own response template describes (transformers' `response_template`)."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.grammar import Grammar
from langchain_saffron.tools.base import ENDED, CallParser, CallPiece, Event, Said, Spoiled, ToolFormat, call_id, spoil
from langchain_saffron.tools.control_text import ControlText
from langchain_saffron.tools.request import arguments_schema
from langchain_saffron.tools.validation import misfit

# what these read is whole or an error, whether or not an end marker follows
_STRICT = ("json", "python-call-list")


class ResponseTemplateFormat(ToolFormat):
    """What the tokenizer itself brings to take answers apart.

    The form is known only to transformers' parser, which wants the control tokens, so nothing is given out before the
    answer is whole, and no call can be enforced: each is checked afterwards.
    """

    name = "response_template"
    trigger = ""

    def detect(self, source: str, tokenizer: Any) -> bool:
        """Whether the tokenizer has a response template that tells of tool calls."""
        template = getattr(tokenizer, "response_template", None)
        return isinstance(template, dict) and "tool_calls" in template.get("fields", {})

    def grammar(self, tools: Sequence[dict[str, Any]], choice: str, parallel: bool) -> Grammar | None:
        """Anything: there is no grammar of a form that is not known.

        Raises:
            SettingsError: A call is demanded.
        """
        if choice in ("auto", "none"):
            return None
        raise SettingsError(
            f"tool_choice: {choice!r} cannot be enforced in the form of this model's tokenizer, only 'auto'; "
            'with tool_format="hermes" it can'
        )

    def parser(
        self, tokenizer: Any = None, tools: Sequence[dict[str, Any]] = (), prompt_ids: Sequence[int] = ()
    ) -> CallParser:
        """A parser of the text with its control tokens.

        Raises:
            SettingsError: The tokenizer has no response template.
        """
        if not self.detect("", tokenizer):
            raise SettingsError("tool_format: this model's tokenizer has no response_template with tool_calls")
        return ResponseTemplateParser(tokenizer, tools, prompt_ids)


class ResponseTemplateParser(CallParser):
    """Takes a whole answer apart. Of its fields, content and tool calls count; thoughts are left out."""

    def __init__(self, tokenizer: Any, tools: Sequence[dict[str, Any]], prompt_ids: Sequence[int]) -> None:
        """Prepares the parser.

        Args:
            tokenizer: With a response template.
            tools: In OpenAI's form: calls of others, and those that do not fit, are spoiled.
            prompt_ids: What the answer follows, which may have begun a part of it, such as thoughts.
        """
        self._tokenizer = tokenizer
        self._tools = {tool["function"]["name"]: tool for tool in tools}
        self._prompt_ids = list(prompt_ids)
        self._text = ""
        self._said = False
        self._index = -1

    def feed(self, text: str) -> Iterator[Event]:
        """Read on; gives nothing yet."""
        self._text += text
        yield from ()

    def finish(self, cut: str | None = None, token_text: str = "") -> Iterator[Event]:
        """Read everything."""
        text = ControlText(self._tokenizer).as_given(token_text, self._text) if token_text else self._text
        template = self._tokenizer.response_template
        fields = {name: {**field, "optional": True} for name, field in template["fields"].items()}
        parser = self._tokenizer.get_response_parser(
            {**template, "fields": fields},
            prefix=self._tokenizer.decode(self._prompt_ids) if self._prompt_ids else "",
            tools=list(self._tools.values()),
        )
        open_field = _open_field(parser.initial_events)
        content, continued = "", open_field == "content"
        read = 0  # how far the text is dealt with
        for place, piece in enumerate([*text, None], start=1):
            try:
                events = parser.finalize()[1] if piece is None else parser.feed(piece)
            except Exception as error:  # a template is a program: whatever it raises, it cannot read this
                why = (str(error) or repr(error)).splitlines()[0]
                whole = text[read:].strip().removesuffix(self._tokenizer.eos_token or "").strip()
                yield from self._say(content, continued)
                yield from self._spoiled(None, whole, cut or f"it cannot be read: {why}")
                return
            for event in events:
                field, kind = event["field"], event["type"]
                if kind == "region_chunk" and field == "content":
                    content, read = content + event["text"], place
                elif kind == "region_close" and field != "content":
                    read = place
                    if field == "tool_calls":
                        yield from self._say(content, continued)
                        content, continued = "", False
                        half = piece is None and not self._is_whole(fields["tool_calls"], text, cut)
                        yield from self._calls(event["value"], (cut or ENDED) if half else None)
        yield from self._say(content, continued)

    def _say(self, text: str, continued: bool) -> Iterator[Event]:
        text = text.rstrip() if continued else text.strip()
        if text:
            yield Said(f"\n{text}" if self._said else text)
            self._said = True

    def _calls(self, value: Any, error: str | None) -> Iterator[Event]:
        for call in value if isinstance(value, list) else [value]:
            inner = call.get("function", call) if isinstance(call, dict) else None
            name = inner.get("name") if isinstance(inner, dict) else None
            arguments = inner.get("arguments") if isinstance(inner, dict) else call
            if isinstance(arguments, str):
                with suppress(ValueError):  # then it is no object, which is said below
                    arguments = json.loads(arguments or "{}", strict=False)
            written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            if why := error or self._wrong(name, arguments):
                yield from self._spoiled(name if isinstance(name, str) else None, written, why)
            else:
                yield from self._call(name, written)

    def _wrong(self, name: Any, arguments: Any) -> str | None:
        if not isinstance(name, str) or name not in self._tools:
            return f"no tool is named {name!r}; there are {', '.join(map(repr, self._tools)) or 'none'}"
        if not isinstance(arguments, dict):
            return "its arguments are not a JSON object"
        return misfit(arguments, arguments_schema(self._tools[name]))

    def _call(self, name: str | None, written: str) -> Iterator[Event]:
        self._index += 1
        yield CallPiece(self._index, "", call_id(), name)
        yield CallPiece(self._index, written)

    def _spoiled(self, name: str | None, written: str, error: str) -> Iterator[Event]:
        yield from self._call(name, written + spoil(written))
        yield Spoiled(self._index, error)

    @staticmethod
    def _is_whole(field: dict[str, Any], text: str, cut: str | None) -> bool:
        """Whether a call that goes on to the answer's end is all there."""
        ends = field.get("close", ())
        ends = [ends] if isinstance(ends, str) else list(ends)
        pattern = field.get("close_pattern")
        if field.get("content", "text") in _STRICT:
            return True
        if not ends and pattern is None:
            return cut is None
        patterns = [*map(re.escape, ends), *([pattern] if pattern else [])]
        return any(re.search(rf"(?:{one})\s*\Z", text, re.DOTALL) for one in patterns)


def _open_field(events: Sequence[dict[str, Any]]) -> str | None:
    """The field that is being written when these events are over."""
    open_field = None
    for event in events:
        open_field = None if event["type"] == "region_close" else event["field"]
    return open_field


RESPONSE_TEMPLATE = ResponseTemplateFormat()
