"""Requests and answers of the public API for logins, API keys and users."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr

from framefarm.protocol.base import Strict
from framefarm.protocol.timestamps import Moment


class Login(Strict):
    email: Annotated[StrictStr, Field(max_length=320)]
    password: Annotated[StrictStr, Field(max_length=1024)]
    cookie: StrictBool = False


class UserInfo(BaseModel):
    id: str
    email: str
    role: str
    disabled: bool = False
    created_at: str


class AccountInfo(BaseModel):
    id: str
    name: str
    currency: str


class Session(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_at: str
    user: UserInfo
    account: AccountInfo


class Me(BaseModel):
    user: UserInfo
    account: AccountInfo
    token: str
    role: str


class KeyRequest(Strict):
    name: Annotated[StrictStr, Field(min_length=1, max_length=100)]
    role: Literal["admin", "member", "read"] = "member"
    expires_at: Moment | None = None


class Key(BaseModel):
    id: str
    name: str
    role: str
    hint: str
    user: str
    created_at: str
    expires_at: str | None


class NewKey(Key):
    key: str


class KeyPage(BaseModel):
    data: list[Key]
    next_cursor: str | None


class NewUser(Strict):
    email: Annotated[StrictStr, Field(max_length=320)]
    password: Annotated[StrictStr, Field(max_length=1024)]
    role: Literal["admin", "member"] = "member"


class UserChange(Strict):
    role: Literal["admin", "member"] | None = None
    disabled: StrictBool | None = None
    password: Annotated[StrictStr, Field(max_length=1024)] | None = None


class UserPage(BaseModel):
    data: list[UserInfo]
    next_cursor: str | None
