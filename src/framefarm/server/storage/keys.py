"""Keys of objects in the store: one function for each type of object.

Attempts' folders and staged files are named by the node protocol, too (docs/node-protocol.md).
"""

from __future__ import annotations


def content(account_id: str, sha256: str, generation: int) -> str:
    """Key of a content. `generation` distinguishes a new upload from removed bytes of the same hash."""
    return f"content/{account_id}/{sha256}/{generation}"


def manifest(account_id: str, sha256: str) -> str:
    """Key of a job's manifest, by the SHA-256 of its text."""
    return f"manifests/{account_id}/{sha256}"


def staging(account_id: str, attempt_id: str = "", name: str = "") -> str:
    """Key of the account's staging folder, of an attempt's folder in it, or of a staged file."""
    return "/".join(filter(None, ("staging", account_id, attempt_id, name)))


def logs(account_id: str) -> str:
    """Key of the folder of an account's logs."""
    return f"logs/{account_id}"


def log(account_id: str, attempt_id: str) -> str:
    """Key of an attempt's log."""
    return f"logs/{account_id}/{attempt_id}.log"


def thumbnails(account_id: str, job_id: str) -> str:
    """Key of the folder of a job's thumbnails."""
    return f"thumbnails/{account_id}/{job_id}"


def thumbnail(account_id: str, job_id: str, attempt_id: str, frame: int) -> str:
    """Key of a frame's thumbnail."""
    return f"thumbnails/{account_id}/{job_id}/{attempt_id}-{frame}.webp"
