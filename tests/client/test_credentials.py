from __future__ import annotations

from pathlib import Path

import pytest

from framefarm.client import Credentials, LocalProblem, Login


def test_a_login_is_stored_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    stored = Credentials(tmp_path / "deep" / "credentials.json", {})
    stored.save(Login("http://a:1", "one", "ada@a.example"))
    assert stored.path.stat().st_mode & 0o777 == 0o600
    assert list(stored.path.parent.iterdir()) == [stored.path]


def test_each_farm_has_its_own_login_and_the_last_one_is_the_default(tmp_path: Path) -> None:
    stored = Credentials(tmp_path / "c.json", {})
    stored.save(Login("http://a:1", "one"))
    stored.save(Login("http://b:1", "two"))
    assert stored.login().token == "two"
    assert stored.login("http://a:1/").token == "one"


def test_forgetting_the_default_falls_back_to_another_farm(tmp_path: Path) -> None:
    stored = Credentials(tmp_path / "c.json", {})
    stored.save(Login("http://a:1", "one"))
    stored.save(Login("http://b:1", "two"))
    stored.forget("http://b:1")
    assert stored.login().url == "http://a:1"


def test_environment_variables_override_the_stored_login(tmp_path: Path) -> None:
    stored = Credentials(
        tmp_path / "c.json", {"FRAMEFARM_URL": "http://env:1", "FRAMEFARM_TOKEN": "from-env"}
    )
    stored.save(Login("http://a:1", "one"))
    assert stored.login() == Login("http://env:1", "from-env")


def test_a_missing_login_is_reported_with_the_login_command(tmp_path: Path) -> None:
    with pytest.raises(LocalProblem, match="framefarm login"):
        Credentials(tmp_path / "c.json", {}).login()
    with pytest.raises(LocalProblem, match="framefarm login http://a:1"):
        Credentials(tmp_path / "c.json", {}).login("http://a:1")


@pytest.mark.parametrize("text", ["", "[]", '{"servers": 3}'])
def test_a_damaged_credentials_file_is_named_in_the_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(LocalProblem, match=r"c\.json"):
        Credentials(tmp_path / "c.json", {}).login()
