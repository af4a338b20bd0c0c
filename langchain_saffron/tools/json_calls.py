"""Calls written as JSON objects with a name and arguments: Hermes and Qwen between markers, Llama 3 bare."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from langchain_saffron.errors import SettingsError
from langchain_saffron.grammar import Grammar, Tag
from langchain_saffron.tools.base import CallParser, ToolFormat
from langchain_saffron.tools.control_text import control_tokens
from langchain_saffron.tools.json_parser import JsonCallParser
from langchain_saffron.tools.preamble import with_tools_in_messages
from langchain_saffron.tools.request import arguments_schema


class JsonCallFormat(ToolFormat):
    """Calls such as `<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>`; the markers may be missing."""

    name: ClassVar[str]
    opening: ClassVar[str] = ""
    closing: ClassVar[str] = ""
    blank: ClassVar[str] = ""
    key: ClassVar[str] = "arguments"
    separator: ClassVar[str] = "\n"

    @property
    def trigger(self) -> str:  # type: ignore[override]
        """The marker, or how the object begins."""
        return self.opening or '{"name": '

    def grammar(self, tools: Sequence[dict[str, Any]], choice: str, parallel: bool) -> Grammar | None:
        """Free text until a call begins, or nothing but calls; their arguments follow the tools' schemas."""
        if choice == "none":
            return None
        tags = [self.tag(tool) for tool in tools if choice in ("auto", "any", tool["function"]["name"])]
        if not tags:
            raise SettingsError(f"tool_choice: no tool is named {choice!r}")
        return Grammar.tagged(
            tags,
            trigger=self.trigger,
            text=choice == "auto",
            at_start=not self.opening,
            many=parallel and choice in ("auto", "any"),
            separator=self.separator,
        )

    def tag(self, tool: dict[str, Any]) -> Tag:
        """A call of one tool: what comes before its arguments, their schema, what comes after them."""
        name = json.dumps(tool["function"]["name"], ensure_ascii=False)
        begin = f'{self.opening}{self.blank}{{"name": {name}, "{self.key}": '
        where = f"tool {tool['function']['name']!r}"
        return Tag(begin, arguments_schema(tool), f"}}{self.blank}{self.closing}", where)

    def parser(
        self, tokenizer: Any = None, tools: Sequence[dict[str, Any]] = (), prompt_ids: Sequence[int] = ()
    ) -> CallParser:
        """A parser of the text with the markers that are control tokens."""
        return JsonCallParser(self.opening, self.closing, {tool["function"]["name"] for tool in tools})

    def markers(self, tokenizer: Any) -> dict[int, str]:
        """Those that are control tokens."""
        return control_tokens(tokenizer, (self.opening, self.closing))


class HermesFormat(JsonCallFormat):
    """Hermes, Qwen 2.5 and 3, and many models trained after them."""

    name = "hermes"
    opening, closing, blank = "<tool_call>", "</tool_call>", "\n"

    def detect(self, source: str, tokenizer: Any) -> bool:
        """By its marker and key; others have the same marker around XML, as Qwen3-Coder and GLM 4.5 do."""
        other = any(marker in source for marker in ("<function=", "<arg_key>", "<tool_sep>"))
        return self.opening in source and '"arguments"' in _unquoted(source) and not other

    def templates(self, source: str) -> Iterator[str]:
        """Tools in the system message or, where there can be none, in the user's first one."""
        yield from with_tools_in_messages(source)


class LlamaFormat(JsonCallFormat):
    """Llama 3.1 to 3.3: the whole answer is a call."""

    name = "llama"
    key, separator = "parameters", "; "

    def detect(self, source: str, tokenizer: Any) -> bool:
        """By the form that the template asks the model for."""
        return '{"name": function name, "parameters": ' in _unquoted(source)


def _unquoted(source: str) -> str:
    """A template's text as it writes quotes, however often they are escaped in it."""
    return re.sub(r'\\+"', '"', source)


HERMES, LLAMA = HermesFormat(), LlamaFormat()
