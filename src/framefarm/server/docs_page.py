"""`/api/docs`: the API's documentation as a page, which makes no request outside of the farm.

Its assets are Swagger UI 5, for OpenAPI 3.1, from the wheel of `fastapi-offline`, whose code does not run.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>framefarm API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/api/docs/assets/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="/api/docs/assets/swagger-ui-bundle.js"></script>
<script src="/api/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/api/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  validatorUrl: null,
});
"""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def _page(_request: Request) -> Response:
    return HTMLResponse(
        PAGE, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    )


async def _start(_request: Request) -> Response:
    return Response(START, media_type="text/javascript", headers={"X-Content-Type-Options": "nosniff"})


def install(app: FastAPI) -> None:
    """Add the page and its assets to the application."""
    app.router.routes.append(Route("/api/docs", _page))
    app.router.routes.append(Route("/api/docs/start.js", _start))
    assets = StaticFiles(packages=[("fastapi_offline", "static")])
    app.mount("/api/docs/assets", assets)
