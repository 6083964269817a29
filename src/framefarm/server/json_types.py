"""Types of JSON whose shape Python does not check."""

from __future__ import annotations

from typing import Any

Json = Any
"""Free JSON: values of a caller or a scene, or the data of an event."""
Answer = dict[str, Any]
"""An API answer in the making. The route's `response_model` states its shape and is checked against it."""
