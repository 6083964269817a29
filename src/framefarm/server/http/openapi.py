"""The published OpenAPI document: the routes, and the errors that each of them may answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from framefarm.server.json_types import Json

PROBLEM: Json = {
    "title": "Problem",
    "description": "RFC 9457. Some errors have more members, as `state` and `allowed` of a 409.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "The error in one sentence."},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "Every bad field of a 422.",
            "items": {
                "type": "object",
                "required": ["field", "message", "given"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}, "given": {}},
            },
        },
    },
}
DESCRIPTIONS = {
    401: "No token, or one that is not valid (any more)",
    403: "Known, but not allowed",
    404: "Not there, or another account's",
    409: "The state forbids it: the body names the state and what is allowed",
    413: "Too large, or over the account's quota",
    415: "A body of another media type",
    422: "Bad input: `errors` names every bad field",
    429: "Too many: try again after the seconds of Retry-After",
    503: "Stopping, or the disk is full: try again after the seconds of Retry-After",
}
"""Description of each error status."""
READ = {"get", "head", "options"}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A repeat with the same key and body within 24 hours gets the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
Endpoint = TypeVar("Endpoint", bound=Callable[..., object])
_PROPERTIES = "openapi_properties"


def documents_429(endpoint: Endpoint) -> Endpoint:
    """Publish that a route may answer 429. It does not itself limit the calls."""
    return _mark(endpoint, "429")


def documents_403(endpoint: Endpoint) -> Endpoint:
    """Publish that a route may answer 403 though it only reads. The route itself checks the role."""
    return _mark(endpoint, "403")


def documents_idempotency_key(endpoint: Endpoint) -> Endpoint:
    """Publish that a route takes an `Idempotency-Key`. The route itself runs its work by `command`."""
    return _mark(endpoint, "idempotency_key")


def _mark(endpoint: Endpoint, name: str) -> Endpoint:
    setattr(endpoint, _PROPERTIES, getattr(endpoint, _PROPERTIES, frozenset()) | {name})
    return endpoint


def _marks(routes: Sequence[BaseRoute]) -> dict[tuple[str, str], frozenset[str]]:
    """(path, method in lower case) → the marks of its endpoint."""
    return {
        (route.path or "", method.lower()): getattr(route.endpoint, _PROPERTIES, frozenset())
        for route in iter_route_contexts(routes)
        for method in route.methods or ()
    }


def install(app: FastAPI) -> None:
    """Make `app.openapi()` return the document with all errors."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _with_errors(
                get_openapi(
                    title=app.title, version=app.version, description=app.description, routes=app.routes
                ),
                _marks(app.routes),
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_errors(document: Json, marks: dict[tuple[str, str], frozenset[str]]) -> Json:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            marked = marks.get((path, method), frozenset())
            for status in sorted(_statuses(path, method, operation, marked)):
                operation["responses"][str(status)] = _response(status)
            if "idempotency_key" in marked:
                operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
    return document


def _statuses(path: str, method: str, operation: Json, marked: frozenset[str]) -> set[int]:
    """Error statuses that one operation may answer."""
    statuses = {422}
    if "security" in operation or path == "/api/auth/login":
        statuses.add(401)
    if "403" in marked or (method not in READ and "security" in operation):
        statuses.add(403)
    if "{" in path:
        statuses.add(404)
    if method not in READ or path.endswith("/events"):
        statuses.add(503)
    if method not in READ and not path.startswith("/api/auth/"):
        statuses.add(409)
    if "requestBody" in operation:
        statuses |= {413, 415}
    if "429" in marked:
        statuses.add(429)
    return statuses


def _response(status: int) -> Json:
    answer: Json = {
        "description": DESCRIPTIONS[status],
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in {429, 503}:
        answer["headers"] = {
            "Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "string"}}
        }
    return answer
