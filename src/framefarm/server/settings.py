"""The server's settings: environment variables that begin with `FRAMEFARM_`. All are in docs/operator.md."""

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
    """Read once at start. `data` is the only one without a usable default."""

    model_config = SettingsConfigDict(env_prefix="FRAMEFARM_", extra="ignore")

    data: Path = Path("farm-data")
    """The data directory."""
    database_url: SecretStr | None = Field(default=None)
    """SQLAlchemy URL of a PostgreSQL; empty: SQLite in the data directory."""
    public_url: str | None = None
    """The address that clients see, where a proxy stands in front; it is in the addresses of files."""
    admin_email: str = "admin@localhost.localdomain"
    """The admin that the first start makes."""
    admin_password: SecretStr | None = None
    """Its password; else a random one goes to `admin-password` in the data directory."""
    account_name: str = "studio"
    """Name of the account that the first start makes."""
    buckets: str = ""
    """`gs://renders=DIR,s3://films=DIR`: cloud buckets that are directories here."""
    login_hours: float = 12.0
    """How long a login lasts."""
    lease_seconds: float = 60.0
    """Tasks of a runner that has not called for so long may go to others."""
    disconnected_seconds: float | None = None
    """How long a runner renders on without the farm; default 3 × lease."""
    gathering_bytes: int = 4 * GiB
    """How much a runner may gather in staging while the farm does not answer."""
    starting_seconds: float = 120.0
    """How long a session may take from being written to its hello."""
    no_progress_seconds: float = 1800.0
    """A Blender that gives no sign of life for so long is ended."""
    node_failed_jobs: int = Field(default=3, ge=1)
    """So many different jobs that fail on a machine, with no success between, set it aside."""
    node_window_seconds: float = Field(default=900.0, gt=0)
    """Only failures of the last so many seconds count."""
    node_pause_seconds: float = Field(default=60.0, gt=0)
    """How long a machine is set aside first; each time after that twice as long, up to 64 times."""
    idle_seconds: float = 10.0
    """How long a session without tasks keeps its scene open."""
    minimum_tenure_seconds: float = 300.0
    """How long a session keeps its slot before it is drained, at a task's end, for work that is owed it."""
    preemption_grace_seconds: float = 30.0
    """How long a preempted session may go on with its frame in work before it is killed."""
    sandbox: Literal["bubblewrap", "none"] = "bubblewrap"
    """`none`: Blender runs unshut, as the slot's user; for scenes that are trusted like programs."""
    sandbox_uid: int = 70000
    """The first of the unprivileged user ids that sandboxes run as."""
    max_json_bytes: int = 32 * MiB
    """Largest body of a submission, or of a question for many files; of any other request at most 1 MiB."""
    max_connections: int = Field(default=4096, ge=16)
    """Open connections; beyond it the one that has waited longest without a request is closed."""
    max_file_bytes: int = 1 << 40
    """Largest uploaded file."""
    account_quota_bytes: int | None = None
    """Most that an account may store, where its own quota says nothing else."""
    uploads_per_user: int = 16
    """Uploads of one user at once."""
    streams_per_user: int = 256
    """Streams of events and logs that one user follows at once."""
    free_disk_floor_bytes: int = 512 * MiB
    """Uploads are refused when less of the disk is free."""
    trusted_proxies: str = ""
    """Addresses or networks, comma-separated, whose X-Forwarded-For is believed."""
    behind_proxy: bool = False
    """A TLS proxy stands in front: no warning, and cookies for TLS only."""
    metrics_token: SecretStr | None = None
    """Bearer for `/metrics` from other machines than this one."""
    webhook_allowed_networks: str = ""
    """Addresses or networks, comma-separated, that webhooks may go to although they are not public."""
    smtp_url: SecretStr | None = None
    """`smtp://[user:password@]host[:port]` (STARTTLS where offered) or `smtps://…`; empty: no mail."""
    mail_from: str = ""
    """The sender of the farm's mails; needed with `smtp_url`."""
    mail_any_address: bool = False
    """Jobs may notify addresses that are no users of their account."""
    content_kept_days: float = Field(default=7.0, ge=0.05)
    """Uploaded content that no job refers to, since somebody last asked for it."""
    condemned_kept_hours: float = Field(default=24.0, ge=0)
    """The bytes of content that does not exist any more."""
    logs_kept_days: float = Field(default=30.0, ge=0)
    """What Blender printed, since the end of its attempt."""
    events_kept_days: float = Field(default=7.0, ge=0.05)
    """Events, and webhooks' deliveries with them."""
    tokens_kept_days: float = Field(default=30.0, ge=0)
    """Logins and keys that are expired or revoked."""
    jobs_kept_days: float | None = Field(default=None, ge=0.05)
    """Finished jobs; None: until somebody deletes them."""
    otlp_endpoint: str = ""
    """Where traces go, as `http://127.0.0.1:4318`; needs the extra `telemetry`. Empty: none are made."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @field_validator("webhook_allowed_networks")
    @classmethod
    def networks(cls, value: str) -> str:
        for part in filter(None, map(str.strip, value.split(","))):
            ip_network(part)
        return value

    @model_validator(mode="after")
    def whole_mail(self) -> Self:
        if self.smtp_url is not None:
            url = urlsplit(self.smtp_url.get_secret_value())
            if url.scheme not in {"smtp", "smtps"} or not url.hostname:
                raise ValueError(
                    "FRAMEFARM_SMTP_URL must be smtp://[user:password@]host[:port], or smtps://…"
                )
            if "@" not in self.mail_from:
                raise ValueError(
                    "FRAMEFARM_SMTP_URL needs FRAMEFARM_MAIL_FROM, the address that mails are from"
                )
        return self

    @property
    def disconnected_budget_seconds(self) -> float:
        return self.disconnected_seconds if self.disconnected_seconds is not None else 3 * self.lease_seconds
