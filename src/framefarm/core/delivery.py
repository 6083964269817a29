"""Statuses of what the farm sends out, webhook deliveries and mails, and the pauses between attempts."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class MailStatus(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


def retry_pause_ms(attempts: int, pauses_seconds: Sequence[int]) -> int:
    """Pause after the n-th failed attempt, n from 1: the n-th of the pauses, or the last one again."""
    return pauses_seconds[min(attempts, len(pauses_seconds)) - 1] * 1000
