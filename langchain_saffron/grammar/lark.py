"""Grammars as llguidance's Lark."""

import json
import re
from collections.abc import Mapping
from typing import Any

from langchain_saffron.grammar.grammar import Grammar

PYTHON_TAG = "<|python_tag|>"
# `json.dumps` separates so; no other white space, which a model could otherwise write without end
JSON_OPTIONS = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "json_allow_general_unicode_escapes": True,
}
FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
_JSON_PIECES = re.compile(r'"(?:[^"\\]|\\.)*"|: |, |[{}]|[^"{}:,]+|[:,"]')
_VERBATIM = frozenset(("enum", "const", "default", "examples"))
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))


def known_formats(schema: Any) -> Any:
    """`schema` without formats that llguidance does not know, which are annotations then, as JSON Schema has it."""
    if isinstance(schema, list):
        return [known_formats(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "format" and isinstance(value, str) and value not in FORMATS:
            continue
        if key in _VERBATIM:
            kept[key] = value
        elif key in _NAMED and isinstance(value, dict):
            kept[key] = {name: known_formats(inner) for name, inner in value.items()}
        else:
            kept[key] = known_formats(value)
    return kept


def lark(grammar: Grammar, special: Mapping[str, int]) -> str:
    """Any grammar as Lark, without options.

    Args:
        grammar: The grammar.
        special: The tokenizer's control tokens by their text.
    """
    if grammar.kind == "lark":
        return grammar.source
    if grammar.kind == "tagged":
        return TaggedLark(grammar.source, special).text()
    return f"start: {document_lark(grammar.kind, grammar.source)}\n"


class TaggedLark:
    """Writes the grammar of answers with tool calls for one tokenizer.

    A marker may be one token or spelled out, whichever way the model writes it. Tokens that are not flagged special
    are text to llguidance, so both ways are the same; those that are flagged have to be named.
    """

    def __init__(self, source: str, special: Mapping[str, int]) -> None:
        """Take the source of a `Grammar.tagged`, and the tokenizer's control tokens by their text."""
        self._grammar: dict[str, Any] = json.loads(source)
        self._special = special
        names = sorted(special, key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, names))) if names else None

    def text(self) -> str:
        """The Lark, without options."""
        grammar = self._grammar
        trigger, tags = grammar["trigger"], grammar["tags"]
        call = " | ".join(f"call_{i}" for i in range(len(tags)))
        more = f" ({self.literal(grammar['separator'])} {self.literal(trigger)} call)*" if grammar["many"] else ""
        start, *others = self._start(trigger)
        if document := grammar.get("document"):
            start, others = f"{start} | document", [*others, f"document: {document_lark(**document)}"]
        lines = [start, *others, f"calls: call{more}", f"call: {call}"]
        for i, tag in enumerate(tags):
            rest = self.literal(tag["begin"].removeprefix(trigger))
            lines.append(f"call_{i}: {rest} {json_lark(tag['schema'])} {self.literal(tag['end'])}")
        return "\n".join(lines) + "\n"

    def literal(self, text: str) -> str:
        """Text, where each marker that is a control token may be that token or be spelled out."""
        if self._grammar["at_start"] and "document" in self._grammar:
            # lexemes are as long as can be: those of bare calls have to be the same as those of a document of JSON
            return " ".join(map(quoted, _JSON_PIECES.findall(text)))
        parts = []
        place = 0
        for match in self._markers.finditer(text) if self._markers else ():
            parts += [quoted(text[place : match.start()]), f"(<[{self._special[match[0]]}]> | {quoted(match[0])})"]
            place = match.end()
        parts.append(quoted(text[place:]))
        return " ".join(part for part in parts if part)

    def _start(self, trigger: str) -> list[str]:
        if self._grammar["at_start"]:
            return self._start_bare(trigger)
        if not self._grammar["text"]:
            return [f"start: {self.literal(trigger)} calls"]
        # a lazy lexeme ends where the trigger does, so that no text can go on behind it
        lines = [
            "start: TEXT | head calls",
            f"TEXT: /(?s:.*)/ & ~(/(?s:.*)/ {quoted(trigger)} /(?s:.*)/)",
            "head: spelled" + (f" | TEXT <[{self._special[trigger]}]>" if trigger in self._special else ""),
            f"spelled[lazy]: /(?s:.*)/ {quoted(trigger)}",
        ]
        return lines

    def _start_bare(self, trigger: str) -> list[str]:
        """Calls at the very start only, where Llama may write a token of its own before them."""
        tag = f"<[{self._special[PYTHON_TAG]}]> " if PYTHON_TAG in self._special else ""
        tagged = f" | {tag}{quoted(trigger)} calls" if tag else ""
        if not self._grammar["text"]:
            return [f"start: {self.literal(trigger)} calls{tagged}"]
        # one lexeme up to the trigger's end: text and calls are told apart there
        blanks = r"/[ \t\r\n]{0,4}/"
        return [
            f"start: TEXT | HEAD calls{tagged}",
            f"HEAD: {blanks} {quoted(trigger)}",
            f"TEXT: /(?s:.*)/ & ~(/[ \\t\\r\\n]*/ ({quoted(PYTHON_TAG)} /\\s*/)? {quoted(trigger)} /(?s:.*)/)",
        ]


def json_lark(schema: Any, options: Mapping[str, Any] = JSON_OPTIONS) -> str:
    """JSON that fits a schema."""
    return "%json " + json.dumps({**known_formats(schema), "x-guidance": options}, ensure_ascii=False)


def document_lark(kind: str, source: str) -> str:
    """A document of a JSON schema or a regular expression."""
    if kind == "json_schema":
        return json_lark(json.loads(source))
    return "/" + re.sub(r"\\.|/|\n", _escaped, source, flags=re.S) + "/"


def _escaped(match: re.Match[str]) -> str:
    """A piece of a regular expression as it stands between slashes."""
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(match[0], match[0])


def quoted(text: str) -> str:
    """Text as a literal; nothing for none."""
    return json.dumps(text, ensure_ascii=False) if text else ""
