"""Requests and answers of the public API for instance types, packages and projects."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr

from framefarm.protocol.base import Money, Strict


class Gpu(BaseModel):
    model: str
    count: int
    memory_gib: float


class Instance(BaseModel):
    id: str
    name: str
    description: str
    cores: int
    memory_gib: float
    gpu: Gpu | None
    operating_system: str
    price_per_hour: Money
    preemptible_price_per_hour: Money | None
    enabled: bool
    available: int | None


class InstancePage(BaseModel):
    data: list[Instance]
    next_cursor: str | None


class InstanceChange(Strict):
    enabled: StrictBool


class Package(BaseModel):
    id: str
    product: str
    version: str
    release: str
    render_software: list[str]
    status: Literal["available", "installing", "missing"]
    default: bool
    lacks: list[str] | None
    """Codes of core/blender_features.py; None if they were not tried."""


class PackagePage(BaseModel):
    data: list[Package]
    next_cursor: str | None


ProjectName = Annotated[StrictStr, Field(min_length=1, max_length=100)]


class NewProject(Strict):
    name: ProjectName


class ProjectChange(Strict):
    status: Literal["archived", "active"] | None = None
    action: Literal["archive", "restore"] | None = None
    name: ProjectName | None = None


class Project(BaseModel):
    id: str
    name: str
    status: str
    created_at: str


class ProjectPage(BaseModel):
    data: list[Project]
    next_cursor: str | None
