"""Whether arguments fit a tool's schema: for calls that no grammar has constrained."""

import math
from typing import Any

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


def misfit(value: Any, schema: Any) -> str | None:
    """Where and why `value` does not fit a JSON schema; `None` where it does.

    Types, enumerations, keys, items, references and combinations count. What else a schema says, such as ranges and
    patterns, is left to the tool itself.
    """
    return _misfit(value, schema, schema, "arguments", 0)


def _misfit(value: Any, schema: Any, root: Any, where: str, depth: int) -> str | None:
    if schema is False:
        return f"{where}: not allowed"
    if not isinstance(schema, dict) or depth > _DEPTH:
        return None
    if "$ref" in schema and (why := _misfit(value, _resolved(schema["$ref"], root), root, where, depth + 1)):
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
    if isinstance(value, dict):
        return _object_misfit(value, schema, root, where, depth)
    if isinstance(value, list):
        return _array_misfit(value, schema, root, where, depth)
    return None


def _object_misfit(value: dict[str, Any], schema: dict[str, Any], root: Any, where: str, depth: int) -> str | None:
    for key in schema.get("required", ()):
        if key not in value:
            return f"{where}: {key!r} is missing"
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


def _resolved(reference: Any, root: Any) -> Any:
    """What a reference within the schema refers to; anything may stand for what cannot be found."""
    # behind a bare # stands the name of an anchor, which is not looked for
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return True
    target = root
    for step in reference.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or step not in target:
            return True
        target = target[step]
    return target
