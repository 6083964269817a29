"""Requests and answers of the public API for uploads."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StrictInt, StrictStr, model_validator

from framefarm.protocol.base import Strict


class FileCheck(Strict):
    md5: Annotated[StrictStr, Field(max_length=100)]
    sha256: Annotated[StrictStr, Field(max_length=100)] | None = None
    path: Annotated[StrictStr, Field(max_length=8192)] | None = None
    size: Annotated[StrictInt, Field(ge=0)] | None = None


class Md5Request(Strict):
    """Whether files exist on the farm: one file by its own fields, or up to 1,000 in `files`."""

    md5: Annotated[StrictStr, Field(max_length=100)] | None = None
    sha256: Annotated[StrictStr, Field(max_length=100)] | None = None
    path: Annotated[StrictStr, Field(max_length=8192)] | None = None
    size: Annotated[StrictInt, Field(ge=0)] | None = None
    files: Annotated[list[FileCheck], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def one_of_both(self) -> Md5Request:
        if (self.md5 is None) == (self.files is None):
            raise ValueError("give either md5 (one file) or files (a list)")
        if self.files is not None and (
            self.sha256 is not None or self.path is not None or self.size is not None
        ):
            raise ValueError("beside files (a list), put sha256, path and size into its items")
        return self


class Exists(BaseModel):
    exists: bool
    registered: bool


class ExistsMany(BaseModel):
    files: list[Exists]


class Uploaded(BaseModel):
    path: str
    size: int
    md5: str
    sha256: str
    deduplicated: bool
