"""A submission's body as far as it parses, so that its good fields are checked beside the bad ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pydantic import GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from framefarm.core.errors import FieldError, InvalidInput
from framefarm.protocol.api_jobs import MAX_PATHS, JobSubmission
from framefarm.server.http.validation_messages import field_errors
from framefarm.server.json_types import Json


@dataclass(frozen=True, slots=True)
class Submitted:
    """The body of a submission, with the schema of `JobSubmission`."""

    body: JobSubmission
    """Without the fields in `bad_fields`, and without the bad items of maps."""
    bad_fields: frozenset[str] = frozenset()
    errors: tuple[FieldError, ...] = ()
    """Of all bad fields and items."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: type[object], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(cls._read, handler(JobSubmission))

    @classmethod
    def _read(cls, data: Json, validate: ValidatorFunctionWrapHandler) -> Submitted:
        _refuse_too_many_items(data)
        try:
            return cls(validate(data))
        except ValidationError as error:
            if not isinstance(data, dict):
                raise
            errors = error.errors(include_url=False)
        # No field is coerced, so a field without an error has its final value.
        good = {name: value for name, value in data.items() if name in JobSubmission.model_fields}
        bad = set()
        bad_items: dict[str, set[str | int]] = {}
        for item in errors:
            name, *below = item["loc"]
            if below and isinstance(good.get(str(name)), dict):
                bad_items.setdefault(str(name), set()).add(below[0])
            else:
                good.pop(str(name), None)
                bad.add(str(name))
        for name in bad_items.keys() & good.keys():
            good[name] = {k: v for k, v in good[name].items() if k not in bad_items[name]}
        body = JobSubmission.model_construct(**good)
        return cls(body, frozenset(bad), tuple(field_errors(errors, _properties())))


def _refuse_too_many_items(data: Json) -> None:
    """Refuse a field with more items than any may have: an error for each would take much memory.

    Raises InvalidInput.
    """
    if isinstance(data, dict):
        sizes = {name: len(value) for name, value in data.items() if isinstance(value, (dict, list))}
        text = f"must have at most {MAX_PATHS} items"
        if errors := [FieldError(name, text, size) for name, size in sizes.items() if size > MAX_PATHS]:
            raise InvalidInput(errors)


@cache
def _properties() -> dict[str, Json]:
    properties: dict[str, Json] = JobSubmission.model_json_schema()["properties"]
    return properties
