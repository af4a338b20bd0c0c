"""Grammars of answers that are put together of texts, JSON and regular expressions, as llguidance's Lark."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_saffron.grammar.json_lark import JsonLark, quoted
from langchain_saffron.grammar.lark import document_lark, shape_of
from langchain_saffron.grammar.literals import MarkedLiterals, text_literal


class PartsLark:
    """Writes a grammar of parts for one tokenizer.

    Markers are `MarkedLiterals`. Rules are lists of alternatives, which are lists of items:

    - `["text", t]`: the text, in which each marker that is a control token may be that token.
    - `["rule", r]`: another rule; names in capitals are of lexemes.
    - `["repeat", r, n, m]`: another rule, `n` times at least and `m` at most; `None` for any number.
    - `["json", s, i, k, w]`: JSON of a schema, with `i` between items and `k` behind keys; errors call it `w`.
    - `["lark", l]`: Lark as it is.
    - `["until", e, p]`: text that matches the pattern `p` up to the end `e`, which it holds nowhere else, and that end.
    - `["prose", t]`: any text that does not hold `t`; control tokens may be in it.
    - `["head", t]`: the same and `t`, with which it ends.
    """

    def __init__(self, source: str, special: Mapping[str, int]) -> None:
        """Take the source of a `Grammar.parts`, and the tokenizer's control tokens by their text."""
        self._grammar: dict[str, Any] = json.loads(source)
        self._special = special
        self._literals = MarkedLiterals(special)
        self._lines: list[str] = []
        self._made: dict[tuple[str, ...], str] = {}
        self._writers: dict[tuple[str, str], JsonLark] = {}
        # lexemes are as long as can be: those of bare calls have to be the same as those of a document of JSON
        self._in_pieces = bool(self._grammar.get("in_pieces") and "document" in self._grammar)

    def text(self) -> str:
        """The Lark, without options."""
        rules = {name: [*alternatives] for name, alternatives in self._grammar["rules"].items()}
        if document := self._grammar.get("document"):
            rules["start"].append([["rule", "document"]])
            self._lines.append(f"document: {document_lark(**document, writer=self._json(', ', ': '))}")
        for name, alternatives in rules.items():
            written = " | ".join(" ".join(self._items(items)) or '""' for items in alternatives)
            self._lines.append(f"{name}: {written}")
        return "\n".join([*self._lines, *(line for writer in self._writers.values() for line in writer.rules)]) + "\n"

    def _json(self, item: str, key: str) -> JsonLark:
        """What writes JSON with these separators."""
        return self._writers.setdefault((item, key), JsonLark(f"json{len(self._writers)}", item, key))

    def literal(self, text: str) -> str:
        """Text, where each marker that is a control token may be that token or be spelled out."""
        if self._in_pieces:
            return quoted(text)
        return self._literals.write(text)

    def _items(self, items: list[list[Any]]) -> Iterator[str]:
        for kind, *values in items:
            if kind == "text":
                if values[0]:
                    yield self.literal(values[0])
            elif kind in ("rule", "lark"):
                yield values[0]
            elif kind == "repeat":
                name, least, most = values
                # llguidance takes no repetition of at most none
                if most != 0:
                    yield f"{name}{{{least},{'' if most is None else most}}}"
            elif kind == "json":
                schema, item, key, *where = values
                yield self._json(item, key).rule(shape_of(schema, *(where or ["the tools' grammar"])))
            elif kind == "until":
                yield self._until(*values)
            else:
                yield self._prose(kind, *values)

    def _until(self, end: str, pattern: str) -> str:
        known = self._made.get(("until", end, pattern))
        if known:
            return known
        name = f"until_{len(self._made)}"
        self._made["until", end, pattern] = name
        inner = f"({pattern}) & ~(/(?s:.*)/ {text_literal(end)} /(?s:.*)/)"
        lexeme = name.upper()
        self._lines += [f"{lexeme}_TEXT: {inner}", f"{name}_whole[lazy]: {lexeme}_TEXT {text_literal(end)}"]
        match = self._literals.first(end)
        if match is None:
            self._lines.append(f"{name}: {name}_whole")
        else:
            # what comes before a control token is a part of the lexeme that the token ends
            before, rest = end[: match.start()], end[match.end() :]
            self._lines += [
                f"{lexeme}_HEAD: {lexeme}_TEXT {text_literal(before)}",
                f"{name}: {name}_whole | {lexeme}_HEAD <[{self._special[match[0]]}]> {self.literal(rest)}",
            ]
        return name

    def _prose(self, kind: str, trigger: str) -> str:
        known = self._made.get((kind, trigger))
        if known:
            return known
        if ("prose", trigger) not in self._made:
            self._made["prose", trigger] = "prose"
            match = self._literals.first(trigger)
            others = sorted(i for text, i in self._special.items() if match is None or text != match[0])
            # the model's own control tokens, such as those around thoughts, are no part of any lexeme
            more = f" ({_tokens(others)} TEXT)*" if others else ""
            self._lines += [
                f"prose: TEXT{more}",
                f"TEXT: /(?s:.*)/ & ~(/(?s:.*)/ {text_literal(trigger)} /(?s:.*)/)",
                f"spelled[lazy]: /(?s:.*)/ {text_literal(trigger)}",
            ]
            before = f"(TEXT {_tokens(others)})* " if others else ""
            head = f"{before}spelled"
            if match is not None:
                start, rest = trigger[: match.start()], trigger[match.end() :]
                ends = f"TEXT_HEAD <[{self._special[match[0]]}]> {self.literal(rest)}"
                self._lines.append(f"TEXT_HEAD: TEXT {text_literal(start)}" if start else "TEXT_HEAD: TEXT")
                head += f" | {before}{ends}"
            self._made["head", trigger] = "head"
            self._lines.append(f"head: {head}")
        return kind


def _tokens(ids: list[int]) -> str:
    """Any one of some tokens."""
    ranges: list[list[int]] = []
    for i in ids:
        if ranges and ranges[-1][1] == i - 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return "<[" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) + "]>"
