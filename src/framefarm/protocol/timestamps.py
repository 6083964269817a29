"""Points in time in requests of the public API: RFC 3339 with a time zone; other forms are refused."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator

_FORM = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _rfc3339(value: Any) -> Any:
    if not isinstance(value, str) or not _FORM.fullmatch(value):
        raise ValueError("must be a time with its zone, as 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
