"""Types of JSON in the server whose shape Python does not check."""

from __future__ import annotations

from typing import Any

Json = Any
"""Free JSON: what a caller or a scene brought, or the data of an event."""
Answer = dict[str, Any]
"""An API answer in the making. The route's `response_model` states its shape and is checked against it."""
