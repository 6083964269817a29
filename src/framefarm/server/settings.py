"""The server's settings: environment variables that begin with `FRAMEFARM_`. All are in docs/operator.md."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

GiB = 1 << 30
MiB = 1 << 20


class Settings(BaseSettings):
    """Read once at start. `data` is the only one without a usable default."""

    model_config = SettingsConfigDict(env_prefix="FRAMEFARM_", extra="ignore")

    data: Path = Path("farm-data")
    database_url: SecretStr | None = Field(default=None)
    """SQLAlchemy URL of a PostgreSQL; empty: SQLite in the data directory."""
    public_url: str | None = None
    """The address that clients see, where a proxy stands in front."""
    admin_email: str = "admin@localhost.localdomain"
    admin_password: SecretStr | None = None
    account_name: str = "studio"
    """Name of the account that the first start makes."""
    buckets: str = ""
    """`gs://renders=DIR,s3://films=DIR`: cloud buckets that are directories here."""
    login_hours: float = 12.0
    lease_seconds: float = 60.0
    disconnected_seconds: float | None = None
    """How long a runner renders on without the farm; default 3 × lease."""
    gathering_bytes: int = 4 * GiB
    starting_seconds: float = 120.0
    """How long a session may take from being written to its hello."""
    no_progress_seconds: float = 1800.0
    """A Blender that gives no sign of life for so long is ended."""
    idle_seconds: float = 10.0
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    sandbox_uid: int = 70000
    """The first of the unprivileged user ids that sandboxes run as."""
    max_json_bytes: int = 32 * MiB
    max_file_bytes: int = 1 << 40
    account_quota_bytes: int | None = None
    uploads_per_user: int = 16
    free_disk_floor_bytes: int = 512 * MiB
    trusted_proxies: str = ""
    behind_proxy: bool = False
    metrics_token: SecretStr | None = None
    log_level: str = "info"

    @property
    def disconnected_budget_seconds(self) -> float:
        return self.disconnected_seconds if self.disconnected_seconds is not None else 3 * self.lease_seconds
