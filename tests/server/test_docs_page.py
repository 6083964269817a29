"""`/api/docs` is whole without any outside request: every script and style is a file of the farm's."""

from __future__ import annotations

import re

from api_client import ApiClient


def test_the_page_loads_only_the_farms_own_files_and_all_are_there(site: ApiClient) -> None:
    page = site.ask("GET", "/api/docs")
    assert page.status_code == 200
    assert re.findall(r"<(?:script|style)>", page.text) == []
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert [x for x in loaded if not x.startswith(("/api/docs/", "data:"))] == []
    for address in (x for x in loaded if x.startswith("/")):
        assert site.ask("GET", address).status_code == 200, address


def test_the_policy_lets_nothing_else_in(site: ApiClient) -> None:
    policy = site.ask("GET", "/api/docs").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)


def test_its_swagger_ui_knows_the_version_of_the_openapi_document(site: ApiClient) -> None:
    assert site.ask("GET", "/api/openapi.json").json()["openapi"].startswith("3.1")
    script = site.ask("GET", "/api/docs/assets/swagger-ui-bundle.js").text
    assert re.search(r'PACKAGE_VERSION:"5\.', script)
