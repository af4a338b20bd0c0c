"""The leaves of JSON schemas: values that a regular language, or llguidance by itself, describes."""

import json
import re
from typing import Any

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar.formats import BOUNDED, KNOWN, readable_pattern
from langchain_saffron.grammar.merging import NAMED, VALUES
from langchain_saffron.grammar.numbers import ANY_INTEGER, ANY_NUMBER, number_patterns
from langchain_saffron.grammar.shapes import Leaf, schema_text

# `json.dumps` separates so; no other white space, which a model could otherwise write without end
_JSON_OPTIONS = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "json_allow_general_unicode_escapes": True,
}
# what no automaton knows: looked at when the document is whole
CHECKED = frozenset(
    (
        "uniqueItems", "not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames",
        "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
    )
)  # fmt: skip
_LEFT_OUT = frozenset(("$schema", "$id", "nullable", "discriminator", "x-guidance"))
_NO_AUTOMATON = re.compile(r"\(\?(?:[=!]|<[=!]|P=)|(?<!\\)(?:\\\\)*\\[1-9]")


def fixed_leaf(*values: Any) -> Leaf:
    """One of some values."""
    texts = [schema_text(value) for value in values]
    return Leaf(_json({"enum": list(values)}), texts=tuple(texts), longest=max(map(len, texts)))


def native_leaf(schema: dict[str, Any], root: Any) -> Leaf:
    """What llguidance reads by itself, with all that it may refer to.

    Args:
        schema: Of the value.
        root: The whole schema.
    """
    inner = _within(schema)
    if isinstance(root, dict):
        inner = {**inner, "$defs": {"__root": _within(root)}}
    return Leaf(_json(inner), longest=256)


def number_leaf(schema: dict[str, Any], root: Any, where: str) -> Leaf:
    """A number, with or without decimals.

    Args:
        schema: What is said of it.
        root: The whole schema.
        where: The place in it, for errors.

    Raises:
        GrammarError: There is none within its bounds.
    """
    terms = number_patterns(schema)
    if terms is None:
        bounds = {"minimum": -(10**9), "maximum": 10**9}
        return native_leaf({**bounds, **schema}, root)
    if not terms:
        raise GrammarError(f"{where}: no number is within its bounds, from minimum to maximum")
    return Leaf(terms=tuple(terms), longest=3 if terms[0] in (ANY_NUMBER, ANY_INTEGER) else 24)


def string_leaf(schema: dict[str, Any], where: str) -> Leaf:
    """A string.

    Args:
        schema: What is said of it.
        where: The schema's place, for errors.

    Raises:
        GrammarError: Its pattern is none that a grammar can follow.
    """
    kept = {key: schema[key] for key in ("minLength", "maxLength") if schema.get(key) is not None}
    patterns = []
    if isinstance(schema.get("pattern"), str):
        patterns.append(readable_pattern(schema["pattern"]))
        if _NO_AUTOMATON.search(patterns[0]):
            raise GrammarError(f"{where}: the pattern {patterns[0]!r} looks around or back, which no grammar follows")
    form = schema.get("format")
    if form in BOUNDED:
        patterns.append(f"^(?:{BOUNDED[form]})$")
    elif form in KNOWN:
        kept["format"] = form
    if patterns:
        kept["pattern"] = patterns[0]
    if len(patterns) > 1:
        kept["allOf"] = [{"type": "string", "pattern": pattern} for pattern in patterns[1:]]
    source = _json({"type": "string", **kept})
    if patterns or "format" in kept:
        return Leaf(source, longest=128)
    least = int(kept.get("minLength", 0))
    return Leaf(source, least=least, longest=least + 4)


def _json(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {**_JSON_OPTIONS, "coerce_one_of": True}}, ensure_ascii=False)


def _within(schema: Any) -> Any:
    """A schema as llguidance can read it below another root: its references point there, and the rest is left out."""
    if isinstance(schema, list):
        return [_within(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in VALUES:
            kept[key] = value
        elif key in NAMED and isinstance(value, dict) and key != "dependentSchemas":
            kept[key] = {name: _within(inner) for name, inner in value.items()}
        elif key == "$ref" and isinstance(value, str) and value.startswith("#"):
            kept[key] = "#/$defs/__root" + value[1:]
        elif key == "pattern" and isinstance(value, str):
            kept[key] = readable_pattern(value)
        elif key == "format" and value in BOUNDED:
            if "pattern" not in schema:
                kept["pattern"] = f"^(?:{BOUNDED[value]})$"
        elif key not in CHECKED | _LEFT_OUT and (key != "format" or value in KNOWN):
            kept[key] = _within(value)
    return kept
