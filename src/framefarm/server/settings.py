"""The server's settings: environment variables `FRAMEFARM_…`, documented in docs/operator.md."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

GiB = 1 << 30
MiB = 1 << 20


class Settings(BaseSettings):
    """Settings, read once at start."""

    model_config = SettingsConfigDict(env_prefix="FRAMEFARM_", extra="ignore")

    data: Path = Path("farm-data")
    """The data directory."""
    database_url: SecretStr | None = Field(default=None)
    """SQLAlchemy URL of a PostgreSQL; empty: SQLite in the data directory."""
    public_url: str | None = None
    """The farm's address as clients see it, where a proxy is in front; part of the addresses of files."""
    admin_email: str = "admin@localhost.localdomain"
    """Email of the first admin, whom the first start creates."""
    admin_password: SecretStr | None = None
    """The first admin's password; None: a random one is written to `admin-password` in the data directory."""
    account_name: str = "studio"
    """Name of the first account."""
    buckets: str = ""
    """`gs://renders=DIR,s3://films=DIR`: directories of this machine that stand for cloud buckets."""
    login_hours: float = 12.0
    """Validity of a login, in hours."""
    lease_seconds: float = 60.0
    """Time since a runner's last call after which its tasks may go to other sessions."""
    disconnected_seconds: float | None = None
    """Time for which a runner goes on without an answer of the farm; None: three leases."""
    gathering_bytes: int = 4 * GiB
    """Most bytes that a runner gathers in staging while the farm does not answer."""
    starting_seconds: float = 120.0
    """Time limit from a session's row to its runner's hello."""
    no_progress_seconds: float = 1800.0
    """Time without progress after which a Blender is ended."""
    node_failed_jobs: int = Field(default=3, ge=1)
    """Number of different jobs that must fail on a node, with no success between, to set it aside."""
    node_window_seconds: float = Field(default=900.0, gt=0)
    """Age up to which a failure counts for that."""
    node_pause_seconds: float = Field(default=60.0, gt=0)
    """Time for which a node is first set aside; it doubles each further time, up to 64-fold."""
    idle_seconds: float = 10.0
    """Time for which a session without tasks keeps its scene open."""
    minimum_tenure_seconds: float = 300.0
    """Time that a session keeps its slot before it may be drained, at a task's end, for other work."""
    preemption_grace_seconds: float = 30.0
    """Time that a preempted session has to finish its frame in work before it is killed."""
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """`none`: Blender runs without a sandbox, as the slot's user; for scenes trusted like programs."""
    sandbox_uid: int = 70000
    """First of the unprivileged user ids that sandboxes run as."""
    max_json_bytes: int = 32 * MiB
    """Largest body of `POST /api/jobs` and `/api/uploads/md5`; other JSON bodies have at most 1 MiB."""
    max_connections: int = Field(default=4096, ge=16)
    """Most open connections; above it the connection that is idle longest is closed."""
    max_file_bytes: int = 1 << 40
    """Largest uploaded file."""
    account_quota_bytes: int | None = None
    """Most bytes that an account may store, unless it has a quota of its own; None: no limit."""
    uploads_per_user: int = 16
    """Most simultaneous uploads of one user."""
    streams_per_user: int = 256
    """Most simultaneous streams of events and logs of one user."""
    free_disk_floor_bytes: int = 512 * MiB
    """Free bytes of the disk below which uploads are refused."""
    trusted_proxies: str = ""
    """Addresses or networks, comma-separated, whose X-Forwarded-For is trusted."""
    behind_proxy: bool = False
    """A TLS proxy is in front of the farm: no warning at start, and cookies for TLS only."""
    metrics_token: SecretStr | None = None
    """Bearer token for `/metrics` from other machines than this one."""
    webhook_allowed_networks: str = ""
    """Addresses or networks, comma-separated, that webhooks may call although they are not public."""
    smtp_url: SecretStr | None = None
    """`smtp://[user:password@]host[:port]` (STARTTLS where offered) or `smtps://…`; None: no mail."""
    mail_from: str = ""
    """Sender of the farm's mails; required with `smtp_url`."""
    mail_any_address: bool = False
    """Whether jobs may notify addresses of others than their account's users."""
    content_kept_days: float = Field(default=7.0, ge=0.05)
    """Retention of uploaded content that no job needs, since the last request for it."""
    condemned_kept_hours: float = Field(default=24.0, ge=0)
    """Retention of the bytes of content whose row was removed."""
    logs_kept_days: float = Field(default=30.0, ge=0)
    """Retention of Blender's output, since the end of its attempt."""
    events_kept_days: float = Field(default=7.0, ge=0.05)
    """Retention of events, and of webhooks' deliveries of them."""
    tokens_kept_days: float = Field(default=30.0, ge=0)
    """Retention of logins and keys that are expired or revoked."""
    jobs_kept_days: float | None = Field(default=None, ge=0.05)
    """Retention of finished jobs; None: until a user deletes them."""
    otlp_endpoint: str = ""
    """OTLP collector of traces, as `http://127.0.0.1:4318`; needs the extra `telemetry`. Empty: no traces."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @field_validator("webhook_allowed_networks")
    @classmethod
    def networks(cls, value: str) -> str:
        """Check the networks."""
        for part in filter(None, map(str.strip, value.split(","))):
            ip_network(part)
        return value

    @model_validator(mode="after")
    def mail_settings(self) -> Self:
        """Check that the settings of mail fit together."""
        if self.smtp_url is not None:
            url = urlsplit(self.smtp_url.get_secret_value())
            if url.scheme not in {"smtp", "smtps"} or not url.hostname:
                raise ValueError(
                    "FRAMEFARM_SMTP_URL must be smtp://[user:password@]host[:port], or smtps://…"
                )
            if "@" not in self.mail_from:
                raise ValueError(
                    "FRAMEFARM_SMTP_URL needs FRAMEFARM_MAIL_FROM, the sender's address of mails"
                )
        return self

    @property
    def disconnected_budget_seconds(self) -> float:
        """`disconnected_seconds`, or its default."""
        return self.disconnected_seconds if self.disconnected_seconds is not None else 3 * self.lease_seconds
