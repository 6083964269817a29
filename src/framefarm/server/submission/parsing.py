"""A submission as far as it could be read: the fields that parsed are checked all the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from framefarm.core.errors import FieldError, InvalidInput
from framefarm.protocol.api_jobs import MAX_PATHS, JobSubmission
from framefarm.server.http.validation_messages import field_errors


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a client sent as a `JobSubmission`, whose schema it has.

    `said` lacks the fields named in `bad`; of a map with bad items it has the others. `errors` tells them.
    """

    said: JobSubmission
    bad: frozenset[str] = frozenset()
    errors: tuple[FieldError, ...] = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(cls._read, handler(JobSubmission))

    @classmethod
    def _read(cls, data: Any, validate: ValidatorFunctionWrapHandler) -> Submitted:
        _refuse_endless(data)
        try:
            return cls(validate(data))
        except ValidationError as error:
            if not isinstance(data, dict):
                raise
            found = error.errors(include_url=False)
        # No field is coerced, so what has no error is what it would have been.
        good = {name: value for name, value in data.items() if name in JobSubmission.model_fields}
        bad = set()
        bad_items: dict[str, set[Any]] = {}
        for item in found:
            name, *below = item["loc"]
            if below and isinstance(good.get(str(name)), dict):
                bad_items.setdefault(str(name), set()).add(below[0])
            else:
                good.pop(str(name), None)
                bad.add(str(name))
        for name in bad_items.keys() & good.keys():
            good[name] = {k: v for k, v in good[name].items() if k not in bad_items[name]}
        said = JobSubmission.model_construct(**good)
        return cls(said, frozenset(bad), tuple(field_errors(found, _properties())))


def _refuse_endless(data: Any) -> None:
    """No field has so many items; to tell of each would take the farm's memory. Raises InvalidInput."""
    if isinstance(data, dict):
        sizes = {name: len(value) for name, value in data.items() if isinstance(value, (dict, list))}
        text = f"must have at most {MAX_PATHS} items"
        if errors := [FieldError(name, text, size) for name, size in sizes.items() if size > MAX_PATHS]:
            raise InvalidInput(errors)


@cache
def _properties() -> dict[str, Any]:
    properties: dict[str, Any] = JobSubmission.model_json_schema()["properties"]
    return properties
