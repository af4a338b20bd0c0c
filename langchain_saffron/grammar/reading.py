"""From JSON schemas to shapes."""

from typing import Any

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar.leaves import fixed_leaf, native_leaf, number_leaf, string_leaf
from langchain_saffron.grammar.merging import combined, merged, pointed
from langchain_saffron.grammar.numbers import ANY_NUMBER
from langchain_saffron.grammar.shapes import Array, Leaf, Member, Object, Reference, Shape, Union, schema_text

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
# items of a set that are written without repeating one: so many have 64 subsets
MOST_CHOICES = 6
_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "additionalItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_OF_TYPE["integer"] = _OF_TYPE["number"]
_SHAPING = frozenset(key for keys in _OF_TYPE.values() for key in keys) | {"patternProperties"}
_COMBINING = frozenset(("enum", "const", "anyOf", "oneOf", "allOf", "$ref"))
_REFUSED = ("$dynamicRef", "$recursiveRef")


class ShapeReader:
    """Reads one schema; shapes of the same reference are the same."""

    def __init__(self, schema: Any, where: str = "the JSON schema") -> None:
        """Take a schema.

        Args:
            schema: All of it: references point into it.
            where: What errors call its root.
        """
        self._root = schema
        self._where = where
        self._references: dict[str, Reference] = {}
        self._any: Reference | None = None

    def read(self) -> Shape:
        """The shape of the whole.

        Raises:
            GrammarError: Something in it cannot be read; the message names the place.
        """
        try:
            self._root = merged(self._root)
            if isinstance(self._root, dict):
                self._root = {key: value for key, value in self._root.items() if key != "x-guidance"}
            return self._read(self._root, "")
        except RecursionError as error:
            raise GrammarError(
                f"{self._where}: a part of it refers to itself with nothing in between, or it is nested too deeply"
            ) from error

    def _read(self, schema: Any, place: str) -> Shape:
        if schema is True or schema is None:
            return self._anything()
        if schema is False:
            return Union()
        if not isinstance(schema, dict):
            raise GrammarError(f"{self._at(place)}: {schema!r} is no schema")
        for key in _REFUSED:
            if key in schema:
                raise GrammarError(f"{self._at(place)}: {key!r} is not supported: use $ref within the schema")
        if schema.get("not") in ({}, True):
            raise GrammarError(f"{self._at(place)}: nothing fits, as its 'not' excludes everything")
        if schema.get("nullable") is True and schema.get("type") != "null":
            plain = {key: value for key, value in schema.items() if key != "nullable"}
            return Union([self._read(plain, place), fixed_leaf(None)])
        if "$ref" in schema:
            return self._reference(schema, place)
        if "enum" in schema or "const" in schema:
            return self._values(schema, place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternatives(schema, key, place)
        if "allOf" in schema or "patternProperties" in schema:
            return native_leaf(schema, self._root)
        return self._typed(schema, place)

    def _at(self, place: str) -> str:
        path = place.strip("#/")
        return f"{self._where}, at {path}" if path else self._where

    def _followed(self, schema: Any) -> Any:
        """What a schema that is nothing but a reference points to; any other as it is."""
        bare = isinstance(schema, dict) and set(schema) == {"$ref"}
        return pointed(schema["$ref"], self._root) if bare else schema

    def _typed(self, schema: dict[str, Any], place: str) -> Shape:
        types = schema.get("type")
        if types is None:
            types = self._presumed(schema)
        names = [types] if isinstance(types, str) else types
        if not isinstance(names, list) or any(name not in TYPES for name in names):
            raise GrammarError(f"{self._at(place)}: {types!r} is no type of JSON: {', '.join(TYPES)}")
        if set(names) == set(TYPES) - {"integer"} and not _SHAPING & schema.keys():
            return self._anything()
        shapes = [self._of_type({**schema, "type": name}, place) for name in names]
        return shapes[0] if len(shapes) == 1 else Union(shapes)

    def _presumed(self, schema: dict[str, Any]) -> list[str]:
        """Types where a schema names none: those that its keywords are about, or all."""
        said = [name for name in ("object", "array", "string", "number") if set(_OF_TYPE[name]) & schema.keys()]
        return said or [name for name in TYPES if name != "integer"]

    def _of_type(self, schema: dict[str, Any], place: str) -> Shape:
        kind = schema["type"]
        if kind == "null":
            return fixed_leaf(None)
        if kind == "boolean":
            return fixed_leaf(True, False)
        if kind == "string":
            return string_leaf(schema, self._at(place))
        if kind in ("number", "integer"):
            return number_leaf(schema, self._root, self._at(place))
        return self._object(schema, place) if kind == "object" else self._array(schema, place)

    def _anything(self) -> Shape:
        if self._any is None:
            self._any = Reference()
            options: list[Shape] = [
                fixed_leaf(None), fixed_leaf(True, False), Leaf(terms=(ANY_NUMBER,), longest=3), string_leaf({}, ""),
                Array(rest=self._any), Object(others=self._any),
            ]  # fmt: skip
            self._any.target = Union(options)
        return self._any

    def _reference(self, schema: dict[str, Any], place: str) -> Shape:
        reference = schema["$ref"]
        target = pointed(reference, self._root)
        if target is None:
            raise GrammarError(f"{self._at(place)}: {reference!r} is not within the schema")
        if {key for key in schema if key in _SHAPING | _COMBINING | {"type"}} != {"$ref"}:
            return native_leaf(schema, self._root)
        if reference not in self._references:
            self._references[reference] = Reference()
            self._references[reference].target = self._read(target, reference)
        return self._references[reference]

    def _values(self, schema: dict[str, Any], place: str) -> Shape:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list):
            raise GrammarError(f"{self._at(place)}: 'enum' needs a list, not {values!r}")
        if "const" in schema:
            values = [value for value in values if schema_text(value) == schema_text(schema["const"])]
        if "type" in schema:
            names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            values = [value for value in values if any(_is(value, name) for name in names)]
        if (_SHAPING | (_COMBINING - {"enum", "const"})) & schema.keys():
            return native_leaf(schema, self._root)
        if not values:
            raise GrammarError(f"{self._at(place)}: no value of its 'enum' is left")
        return fixed_leaf(*values)

    def _alternatives(self, schema: dict[str, Any], key: str, place: str) -> Shape:
        options = schema[key]
        if not isinstance(options, list) or not options:
            raise GrammarError(f"{self._at(place)}: {key!r} needs a list of schemas")
        beside = {
            name: value for name, value in schema.items() if name != key and name in _SHAPING | _COMBINING | {"type"}
        }
        shapes = []
        for number, option in enumerate(options):
            inner = f"{place}/{key}/{number}"
            if not beside or option is False:
                shapes.append(self._read(option, inner))
                continue
            opened = self._followed(option)
            if opened is True:
                opened = {}
            both = combined(beside, opened) if isinstance(opened, dict) and "$ref" not in opened else None
            if both is None:
                return native_leaf(schema, self._root)
            if not _contradicts(both):
                shapes.append(self._read(both, inner))
        return shapes[0] if len(shapes) == 1 else Union(shapes)

    def _object(self, schema: dict[str, Any], place: str) -> Shape:
        properties = schema.get("properties") or {}
        required = [name for name in schema.get("required") or () if isinstance(name, str)]
        least, most = schema.get("minProperties") or 0, schema.get("maxProperties")
        extra = schema.get("additionalProperties", True)
        others = None if extra is False else self._read(extra, f"{place}/additionalProperties")
        names = self._names(schema)
        if names is not None:
            shown = [name for name in names if name not in properties]
            properties = {name: inner for name, inner in properties.items() if name in names}
            properties |= {} if extra is False else dict.fromkeys(shown, extra)
            others = None
        every = {**properties, **{name: extra for name in required if name not in properties}}
        optional = [name for name in every if name not in required]
        if (least > len(required) or most is not None) and optional:
            return self._counted(schema, every, required, place, others)
        members = [
            Member(name, self._read(inner, f"{place}/properties/{name}"), name in required)
            for name, inner in every.items()
            if inner is not False
        ]
        if others is None and most is not None and most < len(members):
            raise GrammarError(f"{self._at(place)}: more properties are required than 'maxProperties' allows")
        rest = None if most is None else max(most - len(members), 0)
        return Object(members, others, max(least - len(members), 0), rest)

    def _counted(
        self, schema: dict[str, Any], every: dict[str, Any], required: list[str], place: str, others: Shape | None
    ) -> Shape:
        """An object with a number of properties that are not all required: the first ones become so."""
        least, most = schema.get("minProperties") or 0, schema.get("maxProperties")
        optional = [name for name in every if name not in required]
        options: list[Shape] = []
        # which one comes to fill the number up is the model's choice
        if least <= len(required) + 1 and most is None:
            for name in optional:
                members = [
                    Member(key, self._read(inner, f"{place}/properties/{key}"), key in required or key == name)
                    for key, inner in every.items()
                ]
                options.append(Object(members, others))
            if others is not None:
                members = [Member(key, self._read(every[key], f"{place}/properties/{key}"), True) for key in required]
                options.append(Object(members, others, least - len(required)))
            return Union(options)
        return native_leaf(schema, self._root)

    def _names(self, schema: dict[str, Any]) -> list[str] | None:
        """The names that properties may have, if those are listed."""
        given = schema.get("propertyNames")
        if isinstance(given, dict) and "$ref" in given:
            given = pointed(given["$ref"], self._root)
        if not isinstance(given, dict):
            return None
        values = given.get("enum", [given["const"]] if "const" in given else None)
        return [value for value in values if isinstance(value, str)] if isinstance(values, list) else None

    def _array(self, schema: dict[str, Any], place: str) -> Shape:
        items, first = schema.get("items", True), schema.get("prefixItems") or []
        if isinstance(items, list):  # as schemas wrote it until 2019
            first, items = items, schema.get("additionalItems", True)
        least, most = schema.get("minItems") or 0, schema.get("maxItems")
        shapes = [self._read(inner, f"{place}/prefixItems/{number}") for number, inner in enumerate(first)]
        choices = self._choices(items) if schema.get("uniqueItems") and not first else ()
        if choices:
            if least > len(choices):
                raise GrammarError(f"{self._at(place)}: {least} items are to differ, and there are {len(choices)}")
            return Array(least=least, most=min(len(choices), len(choices) if most is None else most), choices=choices)
        rest = None if items is False else self._read(items, f"{place}/items")
        if isinstance(rest, Union) and not rest.options:
            rest = None
        if rest is None and least > len(shapes):
            raise GrammarError(f"{self._at(place)}: 'minItems' asks for more items than there can be")
        return Array(shapes, rest, least, most)

    def _choices(self, items: Any) -> tuple[str, ...]:
        items = self._followed(items)
        if not isinstance(items, dict):
            return ()
        values = [True, False] if items.get("type") == "boolean" else items.get("enum", ())
        return tuple(dict.fromkeys(map(schema_text, values))) if len(values) <= MOST_CHOICES else ()


def _contradicts(schema: dict[str, Any]) -> bool:
    return schema.get("type") == [] or schema.get("enum") == []


def _is(value: Any, name: str) -> bool:
    types: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if name in types:
        return isinstance(value, types[name])
    whole = name == "number" or (isinstance(value, int | float) and float(value).is_integer())
    return isinstance(value, int | float) and not isinstance(value, bool) and whole
