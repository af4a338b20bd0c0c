"""Whether arguments fit a tool's schema: for calls that no grammar has constrained."""

import math
from typing import Any

from langchain_saffron.grammar.leaves import CHECKED
from langchain_saffron.grammar.merging import NAMED, VALUES, pointed

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_DEPTH = 64


def misfit(value: Any, schema: Any, where: str = "arguments") -> str | None:
    """Where and why `value` does not fit a JSON schema; `None` where it does.

    Types, enumerations, keys, items, references, combinations and conditions count. What else a schema says, such as
    ranges and patterns, is left to the tool itself.

    Args:
        value: As JSON gives it.
        schema: The schema.
        where: What the value is called.
    """
    return _misfit(value, schema, schema, where, 0)


def beyond_grammar(schema: Any) -> Any:
    """`schema` where it has rules that no grammar follows, and that are looked at in what is written; else `None`."""
    if isinstance(schema, list):
        found = any(beyond_grammar(item) is not None for item in schema)
    elif isinstance(schema, dict):
        found = not CHECKED.isdisjoint(schema) or any(
            any(beyond_grammar(inner) is not None for inner in value.values())
            if key in NAMED and isinstance(value, dict)
            else beyond_grammar(value) is not None
            for key, value in schema.items()
            if key not in VALUES
        )
    else:
        found = False
    return schema if found else None


def _misfit(value: Any, schema: Any, root: Any, where: str, depth: int) -> str | None:
    if schema is False:
        return f"{where}: not allowed"
    if not isinstance(schema, dict) or depth > _DEPTH:
        return None
    # anything may stand for what a reference does not find
    if "$ref" in schema and (why := _misfit(value, pointed(schema["$ref"], root), root, where, depth + 1)):
        return why
    types = schema.get("type", ())
    names = [types] if isinstance(types, str) else list(types)
    if names and not any(_is(value, name) for name in names) and (value is not None or not schema.get("nullable")):
        return f"{where}: not of type {' or '.join(map(str, names))}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{where}: not one of {schema['enum']}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where}: not {schema['const']!r}"
    for part in schema.get("allOf", ()):
        if why := _misfit(value, part, root, where, depth + 1):
            return why
    for key in ("anyOf", "oneOf"):
        whys = [_misfit(value, part, root, where, depth + 1) for part in schema.get(key, ())]
        if whys and all(whys):
            return whys[0]
    if why := _conditions_misfit(value, schema, root, where, depth):
        return why
    if isinstance(value, dict):
        return _object_misfit(value, schema, root, where, depth)
    if isinstance(value, list):
        return _array_misfit(value, schema, root, where, depth)
    return None


def _conditions_misfit(value: Any, schema: dict[str, Any], root: Any, where: str, depth: int) -> str | None:
    if "not" in schema and _misfit(value, schema["not"], root, where, depth + 1) is None:
        return f"{where}: is what its 'not' excludes"
    if "if" in schema:
        key = "else" if _misfit(value, schema["if"], root, where, depth + 1) else "then"
        return _misfit(value, schema.get(key, True), root, where, depth + 1)
    return None


def _object_misfit(value: dict[str, Any], schema: dict[str, Any], root: Any, where: str, depth: int) -> str | None:
    for key in schema.get("required", ()):
        if key not in value:
            return f"{where}: {key!r} is missing"
    for key, needed in (schema.get("dependentRequired") or {}).items():
        if key in value and (missing := [name for name in needed if name not in value]):
            return f"{where}: {missing[0]!r} is missing, which {key!r} needs"
    for key, part in (schema.get("dependentSchemas") or {}).items():
        if key in value and (why := _misfit(value, part, root, where, depth + 1)):
            return why
    for key in value if "propertyNames" in schema else ():
        if why := _misfit(key, schema["propertyNames"], root, f"{where}, the name {key!r}", depth + 1):
            return why
    properties = schema.get("properties", {})
    # patterns are not matched: where there are any, an unknown key may be one of theirs
    other = True if schema.get("patternProperties") else schema.get("additionalProperties", True)
    for key, item in value.items():
        if key not in properties and other is False:
            return f"{where}: {key!r} is unknown"
        if why := _misfit(item, properties.get(key, other), root, f"{where}.{key}", depth + 1):
            return why
    return None


def _array_misfit(value: list[Any], schema: dict[str, Any], root: Any, where: str, depth: int) -> str | None:
    if schema.get("uniqueItems"):
        for index, item in enumerate(value):
            if any(_same(item, other) for other in value[:index]):
                return f"{where}[{index}]: is there twice, and its 'uniqueItems' forbids that"
    if "contains" in schema:
        count = sum(_misfit(item, schema["contains"], root, where, depth + 1) is None for item in value)
        if count < schema.get("minContains", 1):
            return f"{where}: has too few of what its 'contains' asks for"
        if count > schema.get("maxContains", count):
            return f"{where}: has more of what its 'contains' is about than 'maxContains' allows"
    first = schema.get("prefixItems", ())
    for index, item in enumerate(value):
        inner = first[index] if index < len(first) else schema.get("items")
        if why := _misfit(item, inner, root, f"{where}[{index}]", depth + 1):
            return why
    return None


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, float) and (not math.isfinite(value) or (name == "integer" and not value.is_integer())):
        return False
    return isinstance(value, _TYPES.get(name, (object,)))


def _same(one: Any, other: Any) -> bool:
    # to Python, True is 1
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
