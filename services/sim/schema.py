"""The smallest value that a JSON schema accepts: what a guided answer consists of."""

from __future__ import annotations

from typing import Any

#: Schemas may refer to themselves; past this depth everything is null.
_DEPTH = 12


def example(schema: Any) -> Any:
    """A value of the schema, as far as its plain keywords go (types, enum, const, $ref, minimum, minItems, …).

    Patterns and conditional keywords are not looked at.
    """
    root = schema if isinstance(schema, dict) else {}
    return _value(root, root, _DEPTH)


def _value(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth == 0:
        return None
    if "$ref" in schema:
        return _value(_resolve(str(schema["$ref"]), root), root, depth - 1)
    if "const" in schema:
        return schema["const"]
    for choices in ("enum", "anyOf", "oneOf", "allOf"):
        if schema.get(choices):
            first = schema[choices][0]
            return first if choices == "enum" else _value(first, root, depth - 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root, depth)


def _of_type(kind: str, schema: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    if kind == "object":
        return {name: _value(inner, root, depth - 1) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_value(schema.get("items", {}), root, depth - 1) for _ in range(schema.get("minItems", 1))]
    if kind == "string":
        return "sim".ljust(schema.get("minLength", 0), "m")[: schema.get("maxLength")]
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
    return True if kind == "boolean" else None


def _resolve(reference: str, root: dict[str, Any]) -> Any:
    target: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        target = target.get(step, {}) if isinstance(target, dict) and step else target
    return target
