"""Schemas of classes and tools, and the forms in which schemas are named, read without loss."""

from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.json_schema import dereference_refs
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from langchain_saffron.grammar.formats import NAIVE_DATE_TIME
from langchain_saffron.grammar.merging import NAMED, VALUES, pointed

# the one argument of a tool whose schema is no object
WRAPPED = "value"
_ABOUT = ("title", "description", "$defs", "definitions")
# digits of a decimal whose class bounds only all of them
_PLACES = 2


class _ClassSchema(GenerateJsonSchema):
    """Pydantic's own, but what it writes of decimals and of times without a zone is what it reads."""

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        """A number with no more digits than the class takes; Pydantic's is any number or string."""
        made: JsonSchemaValue = {"type": "number"}
        for name, key in (("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum"), ("lt", "exclusiveMaximum")):
            if schema.get(name) is not None:
                made[key] = float(schema[name])
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        if schema.get("multiple_of") is not None:
            made["multipleOf"] = float(schema["multiple_of"])
        elif digits is not None or places is not None:
            places = min(_PLACES, digits) if places is None else places if digits is None else min(places, digits)
            made["multipleOf"] = 1 if not places else float(f"1e-{places}")
        if digits is not None:
            most = 10 ** (digits - places)
            low, high = made.get("minimum", -most), made.get("maximum", most)
            made |= {"minimum": max(low, -most), "maximum": min(high, most)}
            if digits <= places:
                # to Pydantic, the 0 of 0 is a digit before the point
                made["minimum"] = max(made["minimum"], float(f"1e-{places}"))
            for key, bound in (("exclusiveMinimum", -most), ("exclusiveMaximum", most)):
                made[key] = (max if key == "exclusiveMinimum" else min)(made.get(key, bound), bound)
        return made

    def datetime_schema(self, schema: Any) -> JsonSchemaValue:
        """A time with a zone, as the format has it, unless the class wants one without."""
        if schema.get("tz_constraint") == "naive":
            return {"type": "string", "pattern": NAIVE_DATE_TIME}
        return super().datetime_schema(schema)


def class_schema(given: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a Pydantic class, of which every document that fits it is read."""
    return given.model_json_schema(schema_generator=_ClassSchema)


def lossless_parameters(tool: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """A tool's parameters, where LangChain's conversion lost some of them.

    It writes `{}` for what is recursive, drops schemas without `properties`, and takes any string for a decimal.

    Args:
        tool: As it was given.
        parameters: What LangChain made of it.
    """
    source = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if isinstance(source, type) and issubclass(source, BaseModel):
        whole = class_schema(source)
        if not recursive(whole) and whole == source.model_json_schema():
            return parameters
    elif isinstance(source, dict) and (isinstance(tool, BaseTool) or ("title" in source and "name" not in source)):
        whole = source
        if isinstance(tool, BaseTool) and not recursive(whole):
            return parameters
    else:
        return parameters
    if isinstance(source, dict):
        return {key: value for key, value in whole.items() if key not in ("title", "description")} or parameters
    return bare(whole)


def bare(schema: dict[str, Any]) -> dict[str, Any]:
    """A class's schema as it is shown: without titles, and without references unless it is recursive."""
    if not recursive(schema):
        schema = {key: value for key, value in dereference_refs(schema).items() if key not in _ABOUT}
    return {key: value for key, value in without_titles(schema).items() if key != "description"}


def without_titles(schema: Any) -> Any:
    """A schema without its titles, and its parts without theirs."""
    if isinstance(schema, list):
        return [without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # a property may be called so as well, and then it is a schema
    kept = {key: value for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    return {key: value if key in VALUES else without_titles(value) for key, value in kept.items()}


def recursive(schema: Any) -> bool:
    """Whether a part of a schema refers to something that it is itself a part of."""
    return _leads_back(schema, schema, ())


def _leads_back(schema: Any, root: Any, above: tuple[str, ...]) -> bool:
    if isinstance(schema, list):
        return any(_leads_back(item, root, above) for item in schema)
    if not isinstance(schema, dict):
        return False
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in above or reference == "#":
            return True
        if _leads_back(pointed(reference, root), root, (*above, reference)):
            return True
    return any(
        any(_leads_back(inner, root, above) for inner in value.values())
        if key in NAMED and isinstance(value, dict)
        else _leads_back(value, root, above)
        for key, value in schema.items()
        if key not in VALUES and key not in ("$defs", "definitions")
    )


def is_object(schema: Any, root: Any = None, depth: int = 0) -> bool:
    """Whether all that fits a schema are objects."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > 16:
        return False
    if "$ref" in schema and is_object(pointed(schema["$ref"], root), root, depth + 1):
        return True
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list) and all(is_object(one, root, depth + 1) for one in schema[key]):
            return True
    if any(is_object(one, root, depth + 1) for one in schema.get("allOf") or ()):
        return True
    return schema.get("type") == "object" or ("type" not in schema and "properties" in schema)


def named_schema(given: dict[str, Any]) -> tuple[str | None, str | None, dict[str, Any]] | None:
    """A schema in any of the forms in which one is named.

    Args:
        given: OpenAI's `{"type": "json_schema", "json_schema": …}` and `{"name", "schema"}`, its functions and tools,
            Anthropic's `{"name", "input_schema"}`, Bedrock's `{"toolSpec": …}`.

    Returns:
        Name, description and schema; `None` where it is none of these: a schema itself.
    """
    inner = given.get("json_schema")
    if given.get("type") == "json_schema" and isinstance(inner, dict):
        return named_schema(inner) or (inner.get("name"), inner.get("description"), inner)
    if given.get("type") == "function" and isinstance(given.get("function"), dict):
        return named_schema(given["function"])
    if isinstance(given.get("toolSpec"), dict):
        spec = given["toolSpec"]
        return spec.get("name"), spec.get("description"), (spec.get("inputSchema") or {}).get("json") or {}
    for key in ("schema", "input_schema", "parameters"):
        if isinstance(given.get(key), dict) and ("name" in given or key == "schema"):
            return given.get("name"), given.get("description"), given[key]
    return None
