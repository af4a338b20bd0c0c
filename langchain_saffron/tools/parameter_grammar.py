"""The grammar of arguments that are written one by one, and of values that are not JSON."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_saffron.grammar.merging import pointed
from langchain_saffron.tools.call_form import Parameters
from langchain_saffron.tools.string_patterns import PYTHON_STRING, python_string, string_pattern
from langchain_saffron.tools.values import CDATA, CDATA_END

Item = list[Any]
Rules = dict[str, list[list[Item]]]

_KEY = "/[a-zA-Z_][a-zA-Z0-9_-]{0,63}/"
_ALL_KINDS = ("string", "number", "boolean", "null", "array", "object")


class ParameterGrammar:
    """Writes rules for the arguments of one tool."""

    def __init__(self, style: Parameters, rules: Rules, schema: dict[str, Any], name: str, tool: str) -> None:
        """Prepares it.

        Args:
            style: How arguments are written.
            rules: Where new rules go.
            schema: Of the arguments.
            name: What the names of the new rules begin with.
            tool: The tool's name, for errors.
        """
        self._tool = self._where = f"tool {tool!r}"
        self._style = style
        self._values = style.values
        self._rules = rules
        self._root = schema
        self._name = name
        self._known: dict[str, str] = {}

    def arguments(self) -> list[list[Item]]:
        """All arguments of a call, without what stands around them."""
        return [
            [["rule", self._fields(leaf, top=True)]] for leaf in self._leaves(self._root) if _kind(leaf) == "object"
        ]

    # What a schema comes to.

    def _leaves(self, schema: Any, depth: int = 0) -> list[dict[str, Any]]:
        """Schemas of one type each that together allow what a schema allows."""
        if not isinstance(schema, dict) or depth > 32:
            return [{}]
        if "$ref" in schema:
            return self._leaves(pointed(schema["$ref"], self._root), depth + 1)
        if len(schema.get("allOf", ())) == 1:
            rest = {key: value for key, value in schema.items() if key != "allOf"}
            return self._leaves({**schema["allOf"][0], **rest}, depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in schema and "properties" not in schema:
                return [leaf for part in schema[key] for leaf in self._leaves(part, depth + 1)]
        if "const" in schema:
            return [{"enum": [schema["const"]]}]
        if "enum" in schema:
            return [{"enum": schema["enum"]}]
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return [{**schema, "type": kind} for kind in kinds]
        leaves = [schema]
        if schema.get("nullable"):
            leaves.append({"type": "null"})
        return leaves

    # Objects.

    def _fields(self, schema: dict[str, Any], top: bool = False) -> str:
        """A rule for the fields of an object: those that are required, and any of the others."""
        known = self._known_rule("top" if top else "fields", schema)
        if known in self._rules:
            return known
        self._rules[known] = []
        properties = schema.get("properties") or {}
        required = schema.get("required", ())
        names = list(properties)
        if self._style.in_order if top else self._values.object == "own":
            names.sort(key=str.lower)
        separator = self._style.separator if top else ("," if self._values.object == "own" else ", ")
        fields = [(self._field(name, properties[name], top), name in required) for name in names]
        other = schema.get("additionalProperties", not properties)
        extra = self._field(None, other, top) if other is not False else []
        self._rules[known] = [[["rule", self._sequence(known, fields, extra, separator)]]]
        return known

    def _sequence(
        self, name: str, fields: Sequence[tuple[list[list[Item]], bool]], extra: list[list[Item]], separator: str
    ) -> str:
        """Rules `first_k` and `next_k`: the rest from the field `k` on, before and after any was written."""
        size = len(fields)
        last: Item = ["rule", f"{name}_next{size}"]
        self._rules[f"{name}_first{size}"] = [[], *([*field, last] for field in extra)]
        self._rules[f"{name}_next{size}"] = [[], *([*field, last] for field in _behind(separator, extra))]
        for place in range(size - 1, -1, -1):
            field, required = fields[place]
            self._rules[f"{name}_field{place}"] = field
            self._rules[f"{name}_more{place}"] = _behind(separator, field)
            after: Item = ["rule", f"{name}_next{place + 1}"]
            first: list[list[Item]] = [[["rule", f"{name}_field{place}"], after]]
            following: list[list[Item]] = [[["rule", f"{name}_more{place}"], after]]
            if not required:
                first.append([["rule", f"{name}_first{place + 1}"]])
                following.append([after])
            self._rules[f"{name}_first{place}"] = first
            self._rules[f"{name}_next{place}"] = following
        return f"{name}_first0"

    def _field(self, name: str | None, schema: Any, top: bool) -> list[list[Item]]:
        """A key with each kind of its values."""
        alternatives = []
        if top:
            self._where = f"{self._tool}, argument {name!r}" if name else self._tool
        for leaf in self._leaves(schema):
            if top:
                alternatives += self._top_field(name, leaf)
                continue
            own = self._values.object == "own"
            key: list[Item] = [["text", f"{name}:" if own else f"{name!r}: "]]
            if name is None:
                key = [["lark", _KEY], ["text", ":"]] if own else [["lark", f"/'{_KEY[1:-1]}'/"], ["text", ": "]]
            alternatives += [[*key, *value] for value in self._value(leaf, top=False)]
        return alternatives

    def _top_field(self, name: str | None, leaf: dict[str, Any]) -> list[list[Item]]:
        style = self._style

        def head(middle: str) -> list[Item]:
            if name is None:
                return [["text", style.opening], ["lark", _KEY], ["text", middle]]
            return [["text", style.opening + name + middle]]

        kind = _kind(leaf)
        if kind == "string" or (kind is None and self._values.plain):
            if self._values.plain:
                return [[*head(style.before_text), *value] for value in self._plain_string(leaf)]
            return [[*head(style.before_text), *self._string(leaf), ["text", style.closing]]]
        if kind == "enum":
            made: list[list[Item]] = []
            for value in leaf["enum"]:
                middle = style.before_text if isinstance(value, str) else style.middle
                written = self._values.write(value)
                end = style.closing
                if not isinstance(value, str) or not self._values.plain or not end or end not in written:
                    made.append([*head(middle), ["text", written + end]])
            return made
        return [[*head(style.middle), *value, ["text", style.closing]] for value in self._value(leaf, top=True)]

    # Values.

    def _value(self, leaf: dict[str, Any], top: bool) -> list[list[Item]]:
        values = self._values
        kind = _kind(leaf)
        if kind is None:
            return [value for one in _ALL_KINDS for value in self._value({"type": one}, top)]
        if kind == "enum":
            return [[["text", self._nested(top).write(value)]] for value in leaf["enum"]]
        if kind == "string":
            return [self._string(leaf)]
        if kind == "boolean":
            return [
                [["text", word]] for word in (("True", "False") if values.boolean == "python" else ("true", "false"))
            ]
        if kind == "null":
            return [[["text", values.write(None)]]]
        if kind in ("array", "object") and getattr(values, kind) != "json":
            return [[["rule", self._array(leaf)]]] if kind == "array" else [self._object(leaf)]
        return [[["json", self._with_definitions(leaf), ", ", ": ", self._where]]]

    def _nested(self, top: bool) -> Any:
        """How values inside of others are written: strings stand as they are only at the top."""
        return self._values if top or not self._values.plain else replace(self._values, string="python")

    def _object(self, leaf: dict[str, Any]) -> list[Item]:
        return [["text", "{"], ["rule", self._fields(leaf)], ["text", "}"]]

    def _array(self, leaf: dict[str, Any]) -> str:
        known = self._known_rule("array", leaf)
        if known in self._rules:
            return known
        self._rules[known] = []
        item, more = f"{known}_item", f"{known}_more"
        self._rules[item] = [value for one in self._leaves(leaf.get("items", {})) for value in self._value(one, False)]
        self._rules[more] = [[["text", "," if self._values.array == "own" else ", "], ["rule", item]]]
        least, most = leaf.get("minItems", 0), leaf.get("maxItems")
        alternatives: list[list[Item]] = []
        if not least:
            alternatives.append([["text", "[]"]])
        if most != 0:
            repeated: Item = ["repeat", more, max(least, 1) - 1, None if most is None else most - 1]
            alternatives.append([["text", "["], ["rule", item], repeated, ["text", "]"]])
        self._rules[known] = alternatives
        return known

    def _string(self, leaf: dict[str, Any]) -> list[Item]:
        if self._values.string == "json":
            return [["json", {**leaf, "type": "string"}, ", ", ": ", self._where]]
        if self._values.string == "quoted":
            return [["text", self._values.quote], ["until", self._values.quote, string_pattern(leaf)]]
        if not any(key in leaf for key in ("pattern", "format", "minLength", "maxLength")):
            return [["rule", self._lexeme("PYTHON_STRING", PYTHON_STRING)]]
        return [["rule", self._lexeme(self._known_rule("string", leaf).upper(), python_string(leaf))]]

    def _plain_string(self, leaf: dict[str, Any]) -> list[list[Item]]:
        """Strings as they are, with what ends them."""
        end = self._style.closing
        if not end:
            return [[*self._string(leaf)]]
        if self._values.string != "cdata":
            return [[["until", end, string_pattern(leaf)]]]
        safe = f"({string_pattern(leaf)}) & /[^<&\\n]*/"
        marked = f"({string_pattern(leaf)}) & /(?s:.*)[<&\\n](?s:.*)/"
        return [[["until", end, safe]], [["text", CDATA], ["until", CDATA_END + end, marked]]]

    def _lexeme(self, name: str, lark: str) -> str:
        self._rules[name] = [[["lark", lark]]]
        return name

    def _with_definitions(self, leaf: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in json.dumps(leaf):
            return leaf
        definitions: dict[str, Any] = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}
        return {**definitions, **leaf}

    def _known_rule(self, kind: str, schema: dict[str, Any]) -> str:
        source = kind + json.dumps(schema)
        return self._known.setdefault(source, f"{self._name}_{kind}{len(self._known)}")


def _behind(separator: str, fields: list[list[Item]]) -> list[list[Item]]:
    """Fields with a separator before them, as one text: lexemes are not to begin with others."""
    return [
        [["text", separator + str(first[1])], *rest] if first[0] == "text" else [["text", separator], first, *rest]
        for first, *rest in fields
    ]


def _kind(leaf: dict[str, Any]) -> str | None:
    if "enum" in leaf:
        return "enum"
    kind = leaf.get("type")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in leaf else "array" if "items" in leaf else None
