"""Pydantic's validation errors as field errors: each bad field, the allowed values, and the given one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from framefarm.core.errors import FieldError
from framefarm.server.json_types import Json

Object = Mapping[str, Json]
"""One of pydantic's errors (`pydantic_core.ErrorDetails`), or a JSON schema."""

SENTENCES = {
    "missing": "is required",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 64 bits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "string_sub_type": "must be text",
    "string_unicode": "must be text in valid UTF-8",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be more than {gt}",
    "less_than": "must be less than {lt}",
    "datetime_from_date_parsing": "must be a time, as 2026-01-31T12:00:00Z",
    "datetime_parsing": "must be a time, as 2026-01-31T12:00:00Z",
    "datetime_type": "must be a time, as 2026-01-31T12:00:00Z",
}
"""Sentence of each type of pydantic's errors; the placeholders are in the error's `ctx`."""
IN_ANSWER = frozenset({"[key]"})
"""Parts of a location that pydantic adds to the sender's field names."""


def field_errors(found: Iterable[Object], properties: Object | None = None) -> list[FieldError]:
    """Field errors for pydantic's. With `properties`, of the model's JSON schema, a number out of bounds is
    answered with both bounds, and an unknown field with the known ones.
    """
    return [
        FieldError(
            field_name(item["loc"]),
            _sentence(item, properties or {}),
            None if item["type"] == "missing" else item.get("input"),
        )
        for item in found
    ]


def field_name(location: Sequence[str | int]) -> str:
    """A location as text: `upload_paths[3]`, `environment_variables.OCIO`; the whole body is `body`."""
    name = ""
    for part in location:
        if part not in IN_ANSWER:
            name += f"[{part}]" if isinstance(part, int) else f".{part[:200]}"
    return name.lstrip(".") or "body"


def _sentence(item: Object, properties: Object) -> str:
    kind, location = str(item["type"]), item["loc"]
    if kind == "extra_forbidden":
        known = f"; there are: {', '.join(properties)}" if properties else ""
        return f"is not a field of this request{known}"
    if kind == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    bounds = _bounds(properties.get(location[0], {})) if len(location) == 1 else None
    if bounds and kind in {"int_type", "int_from_float", "greater_than_equal", "less_than_equal"}:
        return f"must be a whole number between {bounds[0]:,} and {bounds[1]:,}"
    if (sentence := SENTENCES.get(kind)) is not None:
        return sentence.format(**item.get("ctx", {}))
    message = str(item["msg"])
    return message[:1].lower() + message[1:]


def _bounds(schema: Object) -> tuple[int, int] | None:
    for part in (schema, *schema.get("anyOf", ())):
        if "minimum" in part and "maximum" in part:
            return part["minimum"], part["maximum"]
    return None
