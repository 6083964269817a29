"""Metrics of this process, for `/metrics`. No label names an account, user, job or project."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds of the histograms, in seconds."""
REGISTRY = CollectorRegistry()

COMMIT_SECONDS = Histogram(
    "framefarm_commit_seconds", "Time a database commit took", registry=REGISTRY, buckets=FAST
)
HTTP_SECONDS = Histogram(
    "framefarm_http_seconds",
    "Time from a request to the start of its answer",
    ["method", "route", "status"],
    registry=REGISTRY,
    buckets=FAST,
)
COLLECTED_ROWS = Counter(
    "framefarm_collected_rows", "Rows removed by retention, by type", ["what"], registry=REGISTRY
)
COLLECTED_BYTES = Counter(
    "framefarm_collected_bytes", "Bytes of files removed by retention, by type", ["what"], registry=REGISTRY
)
FRAMES = Counter("framefarm_frames", "Frames committed; their rate is frames per second", registry=REGISTRY)
EVENT_LAG_SECONDS = Histogram(
    "framefarm_event_lag_seconds",
    "Time from an event to its delivery to the streams of this process",
    registry=REGISTRY,
    buckets=FAST,
)
STREAMS = Gauge("framefarm_event_streams", "Open event streams", registry=REGISTRY)
DELIVERIES = Counter(
    "framefarm_webhook_attempts", "Attempts to deliver a webhook, by outcome", ["outcome"], registry=REGISTRY
)
MAILS = Counter(
    "framefarm_mail_attempts", "Attempts to send a mail, by outcome", ["outcome"], registry=REGISTRY
)
