"""The published OpenAPI document: what the routes say, and the errors that each of them may answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457. More members say more, as `state` and `allowed` of a 409.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, in one sentence."},
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
WORDS = {
    401: "No token, or one that is not valid (any more)",
    403: "Known, but not allowed",
    404: "Not there, or another account's",
    409: "The state forbids it: the body says the state and what is allowed",
    413: "Too large, or over the account's quota",
    415: "A body of another kind",
    422: "Bad input: `errors` names every bad field",
    429: "Too many: Retry-After says when to try again",
    503: "Stopping, or the disk is full: Retry-After says when to try again",
}
READ = {"get", "head", "options"}
SLOWED = {"/api/auth/login", "/api/uploads/file", "/api/users", "/api/users/{user_id}"}
RESTRICTED_READS = {
    "/api/users",
    "/api/files/{file_id}",
    "/api/jobs/{job_id}/frames/{frame}/thumbnail",
    "/api/webhooks",
    "/api/webhooks/{webhook_id}",
    "/api/webhooks/{webhook_id}/deliveries",
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body within 24 hours answer the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
ONCE = {
    "/api/jobs",
    "/api/jobs/{job_id}/retry",
    "/api/jobs/{job_id}/tasks/{number}/retry",
    "/api/projects",
    "/api/uploads/md5",
    "/api/users",
    "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/resend",
}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` the whole document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_errors(
                get_openapi(
                    title=app.title, version=app.version, description=app.description, routes=app.routes
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_errors(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            for status in sorted(_statuses(path, method, operation)):
                operation["responses"][str(status)] = _response(status)
            if method == "post" and path in ONCE:
                operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
    return document


def _statuses(path: str, method: str, operation: dict[str, Any]) -> set[int]:
    """The errors of one operation."""
    found = {422}
    if "security" in operation or path == "/api/auth/login":
        found.add(401)
    if path in RESTRICTED_READS or (method not in READ and "security" in operation):
        found.add(403)
    if "{" in path:
        found.add(404)
    if method not in READ or path.endswith("/events"):
        found.add(503)
    if method not in READ and not path.startswith("/api/auth/"):
        found.add(409)
    if "requestBody" in operation:
        found |= {413, 415}
    if path in SLOWED and method not in READ:
        found.add(429)
    return found


def _response(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": WORDS[status],
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in {429, 503}:
        answer["headers"] = {
            "Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "string"}}
        }
    return answer
