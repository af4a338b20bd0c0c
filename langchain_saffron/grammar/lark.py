"""Grammars as llguidance's Lark."""

import json
import re
from collections.abc import Mapping
from typing import Any

from langchain_saffron.grammar.grammar import Grammar
from langchain_saffron.grammar.json_lark import JsonLark, quoted
from langchain_saffron.grammar.literals import MarkedLiterals, text_literal
from langchain_saffron.grammar.reading import ShapeReader
from langchain_saffron.grammar.shapes import Shape

PYTHON_TAG = "<|python_tag|>"


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
    writer = JsonLark()
    return "\n".join([f"start: {document_lark(grammar.kind, grammar.source, writer)}", *writer.rules]) + "\n"


class TaggedLark:
    """Writes the grammar of answers with tool calls for one tokenizer; its markers are `MarkedLiterals`."""

    def __init__(self, source: str, special: Mapping[str, int]) -> None:
        """Take the source of a `Grammar.tagged`, and the tokenizer's control tokens by their text."""
        self._grammar: dict[str, Any] = json.loads(source)
        self._special = special
        self._literals = MarkedLiterals(special)

    def text(self) -> str:
        """The Lark, without options."""
        grammar = self._grammar
        trigger, tags = grammar["trigger"], grammar["tags"]
        call = " | ".join(f"call_{i}" for i in range(len(tags)))
        more = f" ({self.literal(grammar['separator'])} {self.literal(trigger)} call)*" if grammar["many"] else ""
        start, *others = self._start(trigger)
        writer = JsonLark()
        if document := grammar.get("document"):
            start, others = f"{start} | document", [*others, f"document: {document_lark(**document, writer=writer)}"]
        lines = [start, *others, f"calls: call{more}", f"call: {call}"]
        for i, tag in enumerate(tags):
            rest = self.literal(tag["begin"].removeprefix(trigger))
            arguments = writer.rule(shape_of(tag["schema"], tag["where"]))
            lines.append(f"call_{i}: {rest} {arguments} {self.literal(tag['end'])}")
        return "\n".join([*lines, *writer.rules]) + "\n"

    def literal(self, text: str) -> str:
        """Text, where each marker that is a control token may be that token or be spelled out."""
        if self._grammar["at_start"] and "document" in self._grammar:
            # lexemes are as long as can be: those of bare calls have to be the same as those of a document of JSON
            return quoted(text)
        return self._literals.write(text)

    def _start(self, trigger: str) -> list[str]:
        if self._grammar["at_start"]:
            return self._start_bare(trigger)
        if not self._grammar["text"]:
            return [f"start: {self.literal(trigger)} calls"]
        # a lazy lexeme ends where the trigger does, so that no text can go on behind it
        lines = [
            "start: TEXT | head calls",
            f"TEXT: /(?s:.*)/ & ~(/(?s:.*)/ {text_literal(trigger)} /(?s:.*)/)",
            "head: spelled" + (f" | TEXT <[{self._special[trigger]}]>" if trigger in self._special else ""),
            f"spelled[lazy]: /(?s:.*)/ {text_literal(trigger)}",
        ]
        return lines

    def _start_bare(self, trigger: str) -> list[str]:
        """Calls at the very start only, where Llama may write a token of its own before them."""
        tag = f"<[{self._special[PYTHON_TAG]}]> " if PYTHON_TAG in self._special else ""
        tagged = f" | {tag}{text_literal(trigger)} calls" if tag else ""
        if not self._grammar["text"]:
            return [f"start: {self.literal(trigger)} calls{tagged}"]
        # one lexeme up to the trigger's end: text and calls are told apart there
        blanks, tool = r"/[ \t\r\n]{0,4}/", text_literal(PYTHON_TAG)
        return [
            f"start: TEXT | HEAD calls{tagged}",
            f"HEAD: {blanks} {text_literal(trigger)}",
            f"TEXT: /(?s:.*)/ & ~(/[ \\t\\r\\n]*/ ({tool} /\\s*/)? {text_literal(trigger)} /(?s:.*)/)",
        ]


def shape_of(schema: Any, where: str = "the JSON schema") -> Shape:
    """What values of a schema look like.

    Args:
        schema: A JSON schema.
        where: What errors call it.

    Raises:
        GrammarError: It cannot be read, or no value fits it.
    """
    return ShapeReader(schema, where).read()


def document_lark(kind: str, source: str, writer: JsonLark) -> str:
    """A document of a JSON schema, whose rules `writer` takes, or of a regular expression."""
    if kind == "json_schema":
        return writer.rule(shape_of(json.loads(source)))
    return "/" + re.sub(r"\\.|/|\n", _escaped, source, flags=re.S) + "/"


def _escaped(match: re.Match[str]) -> str:
    """A piece of a regular expression as it stands between slashes."""
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(match[0], match[0])
