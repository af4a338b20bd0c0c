"""Schemas whose parts share one value, put into one where that is plain."""

from collections.abc import Iterator
from typing import Any

NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
VALUES = ("enum", "const", "default", "examples")
_NOTES = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
_LOWER = {"minimum": max, "exclusiveMinimum": max, "minLength": max, "minItems": max, "minProperties": max}
_UPPER = {"maximum": min, "exclusiveMaximum": min, "maxLength": min, "maxItems": min, "maxProperties": min}


def pointed(reference: Any, root: Any) -> Any:
    """What a reference within a schema points to; `None` where there is nothing."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return _anchored(reference, root)
    target = root
    for step in reference.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and step.isdigit() and int(step) < len(target):
            target = target[int(step)]
        elif isinstance(target, dict) and step in target:
            target = target[step]
        else:
            return None
    return target


def _anchored(reference: Any, root: Any) -> Any:
    """The schema that bears the anchor or id that a reference names."""
    for schema in _schemas(root):
        anchor = schema.get("$anchor")
        if reference in (schema.get("$id"), f"#{anchor}" if isinstance(anchor, str) else None):
            return schema
    return None


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, list):
        for item in schema:
            yield from _schemas(item)
    elif isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key not in VALUES:
                yield from _schemas(value)


def merged(schema: Any, root: Any = None) -> Any:
    """A schema without `allOf`, and without anything beside a `$ref`, wherever that can be written as one schema.

    What cannot stays as it is.

    Args:
        schema: The schema.
        root: What references point into; by default `schema` itself.
    """
    root = schema if root is None else root
    if isinstance(schema, list):
        return [merged(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value
        if key in VALUES
        else {name: merged(inner, root) for name, inner in value.items()}
        if key in NAMED and isinstance(value, dict)
        else merged(value, root)
        for key, value in schema.items()
    }
    return _one(kept, root)


def _one(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    beside = {key for key in schema if key not in (*_NOTES, "$ref", "$defs", "definitions", "$schema", "$id", "type")}
    parts: list[Any] = []
    rest = dict(schema)
    if "$ref" in schema and (beside or "type" in schema):
        parts.append({"$ref": rest.pop("$ref")})
    if isinstance(schema.get("allOf"), list):
        parts += rest.pop("allOf")
    if not parts:
        return schema
    for part in parts:
        opened = _opened(part, root)
        together = None if opened is None else combined(rest, opened)
        if together is None:
            return schema
        rest = together
    return rest


def _opened(part: Any, root: Any, depth: int = 0) -> dict[str, Any] | None:
    """A part with what its reference points to in its place; `None` where that has no end."""
    if part is True:
        return {}
    if not isinstance(part, dict) or depth > 8:
        return None
    if "$ref" not in part:
        return _one(part, root) if "allOf" in part and depth < 8 else part
    target = pointed(part["$ref"], root)
    opened = _opened(target, root, depth + 1)
    rest = {key: value for key, value in part.items() if key != "$ref"}
    return None if opened is None else combined(opened, rest)


def combined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """A schema of what fits two; `None` where it takes both to say that.

    Args:
        one: Whose notes and order of properties count.
        other: The other.
    """
    made = dict(one)
    closed = False in (one.get("additionalProperties"), other.get("additionalProperties"))
    if closed and one.get("properties", {}).keys() != other.get("properties", {}).keys():
        return None
    for key, value in other.items():
        if key not in made or made[key] == value or value is None:
            made[key] = value
        elif key in _NOTES or key in ("$schema", "$id", "$anchor"):
            continue
        elif key in ("properties", "$defs", "definitions"):
            inner = _together(made[key], value, key == "properties")
            if inner is None:
                return None
            made[key] = inner
        elif key == "required":
            made[key] = list(dict.fromkeys([*made[key], *value]))
        elif key in _LOWER or key in _UPPER:
            if isinstance(value, bool) or isinstance(made[key], bool):
                return None
            made[key] = {**_LOWER, **_UPPER}[key](made[key], value)
        elif key == "type" and (types := _shared_types(made[key], value)):
            made[key] = types[0] if len(types) == 1 else types
        elif key == "enum":
            made[key] = [item for item in made[key] if item in value]
        else:
            return None
    return made


def _together(one: dict[str, Any], other: dict[str, Any], properties: bool) -> dict[str, Any] | None:
    made = dict(one)
    for name, inner in other.items():
        if name not in made or made[name] == inner or made[name] is True or made[name] == {}:
            made[name] = inner
        elif inner is not True and inner != {}:
            if not properties or not isinstance(inner, dict) or not isinstance(made[name], dict):
                return None
            both = combined(made[name], inner)
            if both is None:
                return None
            made[name] = both
    return made


def _shared_types(one: Any, other: Any) -> list[str]:
    first, second = ([names] if isinstance(names, str) else list(names) for names in (one, other))
    found = [name for name in first if name in second]
    # a whole number is a number
    if "number" in first and "integer" in second and "integer" not in found:
        found.append("integer")
    if "integer" in first and "number" in second and "integer" not in found:
        found.append("integer")
    return found
