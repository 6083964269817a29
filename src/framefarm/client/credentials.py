"""Logins stored on this machine: one token for each farm, in a file that only its owner can read.

The environment variables `FRAMEFARM_URL` and `FRAMEFARM_TOKEN` override the stored logins.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from framefarm.client.errors import LocalProblem, NotLoggedIn
from framefarm.client.http import clean_url


@dataclass(frozen=True)
class Login:
    """A token for the farm at `url`. `email` and `expires_at` (RFC 3339) are for display only."""

    url: str
    token: str
    email: str = ""
    expires_at: str | None = None


class Credentials:
    """The stored logins; the farm of the latest login is the default."""

    def __init__(self, path: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        """`path` defaults to the user's configuration folder, `environment` to this process's."""
        self.path = path or user_config_path("framefarm") / "credentials.json"
        self._environment = os.environ if environment is None else environment

    def url(self, requested_url: str | None = None) -> str:
        """The requested URL, else FRAMEFARM_URL, else the URL of the latest login. Raises NotLoggedIn."""
        url = requested_url or self._environment.get("FRAMEFARM_URL") or self._read().get("default")
        if not url:
            raise NotLoggedIn("No farm is known. Log in first: framefarm login http://farm.example:8000")
        return clean_url(str(url))

    def login(self, requested_url: str | None = None) -> Login:
        """Login for the farm that `url` returns. Raises NotLoggedIn, with the command to run."""
        url = self.url(requested_url)
        token = self._environment.get("FRAMEFARM_TOKEN")
        if token:
            return Login(url, token)
        stored = self._read()["servers"].get(url)
        if not isinstance(stored, dict) or not stored.get("token"):
            raise NotLoggedIn(f"Not logged in to {url}. Log in first: framefarm login {url}")
        return Login(url, stored["token"], stored.get("email", ""), stored.get("expires_at"))

    def save(self, login: Login) -> None:
        """Store a login and make its farm the default. Raises LocalProblem if that fails."""
        stored = self._read()
        entry = asdict(login)
        del entry["url"]
        stored["servers"][login.url] = entry
        stored["default"] = login.url
        self._write(stored)

    def forget(self, url: str) -> None:
        """Delete the login for `url`, if stored; another farm becomes the default. Raises LocalProblem."""
        stored = self._read()
        if stored["servers"].pop(url, None) is None:
            return
        if stored.get("default") == url:
            stored["default"] = next(iter(stored["servers"]), None)
        self._write(stored)

    def _read(self) -> dict[str, Any]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            stored = {}
        except (OSError, ValueError) as error:
            raise LocalProblem(f"{self.path} cannot be read ({error}). Repair or remove it.") from error
        if not isinstance(stored, dict) or not isinstance(stored.setdefault("servers", {}), dict):
            raise LocalProblem(f"{self.path} is not a list of logins. Repair or remove it.")
        return stored

    def _write(self, stored: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # mkstemp makes the file 0600 from its first moment on.
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".credentials-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(stored, file, indent=2)
            Path(temporary).replace(self.path)
        except OSError as error:
            raise LocalProblem(f"The login cannot be stored in {self.path}: {error}.") from error
