"""The published OpenAPI document: the routes, and the errors that each of them may answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

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
Responses = dict[int | str, dict[str, Any]]
THROTTLED: Responses = {429: {}}
"""`responses` of a route that may answer 429."""
MAY_REFUSE: Responses = {403: {}}
"""`responses` of a route that may answer 403 though it only reads."""
TAKES_KEY = {"parameters": [IDEMPOTENCY_KEY]}
"""`openapi_extra` of a route that runs its work by `idempotency.command`."""


def install(app: FastAPI) -> None:
    """Make `app.openapi()` return the document with all errors."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _with_errors(
                get_openapi(
                    title=app.title, version=app.version, description=app.description, routes=app.routes
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_errors(document: Json) -> Json:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            declared = {int(status) for status in responses if int(status) >= 400}
            for status in declared:
                del responses[str(status)]
            for status in sorted(declared | _statuses(path, method, operation)):
                responses[str(status)] = _response(status)
    return document


def _statuses(path: str, method: str, operation: Json) -> set[int]:
    """Error statuses that one operation may answer, besides those that its route declares."""
    statuses = {422}
    if "security" in operation or path == "/api/auth/login":
        statuses.add(401)
    if method not in READ and "security" in operation:
        statuses.add(403)
    if "{" in path:
        statuses.add(404)
    if method not in READ or path.endswith("/events"):
        statuses.add(503)
    if method not in READ and not path.startswith("/api/auth/"):
        statuses.add(409)
    if "requestBody" in operation:
        statuses |= {413, 415}
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
