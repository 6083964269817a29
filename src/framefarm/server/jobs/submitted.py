"""A submission as far as it could be read: the fields that parsed are checked all the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from framefarm.core.errors import FieldError
from framefarm.protocol.api_jobs import JobSubmission
from framefarm.server.http.messages import field_errors


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
        try:
            return cls(validate(data))
        except ValidationError as error:
            if not isinstance(data, dict):
                raise
            found = error.errors(include_url=False)
        # No field is coerced, so what has no error is what it would have been.
        good = {name: value for name, value in data.items() if name in JobSubmission.model_fields}
        bad = set()
        for item in found:
            name, *below = item["loc"]
            if below and isinstance(good.get(str(name)), dict):
                good[str(name)] = {k: v for k, v in good[str(name)].items() if k != below[0]}
            else:
                good.pop(str(name), None)
                bad.add(str(name))
        said = JobSubmission.model_construct(**good)
        return cls(said, frozenset(bad), tuple(field_errors(found, _properties())))


@cache
def _properties() -> dict[str, Any]:
    properties: dict[str, Any] = JobSubmission.model_json_schema()["properties"]
    return properties
