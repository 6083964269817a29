"""`/api/docs` needs no request outside of the farm: each script and style is one of its own files."""

from __future__ import annotations

import re

from api_client import ApiClient


def test_the_page_loads_only_existing_files_of_the_farm(site: ApiClient) -> None:
    page = site.ask("GET", "/api/docs")
    assert page.status_code == 200
    assert re.findall(r"<(?:script|style)>", page.text) == []
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert [a for a in addresses if not a.startswith(("/api/docs/", "data:"))] == []
    for address in (a for a in addresses if a.startswith("/")):
        assert site.ask("GET", address).status_code == 200, address


def test_the_content_security_policy_admits_only_the_farms_files(site: ApiClient) -> None:
    policy = site.ask("GET", "/api/docs").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)


def test_the_swagger_ui_supports_the_version_of_the_openapi_document(site: ApiClient) -> None:
    assert site.ask("GET", "/api/openapi.json").json()["openapi"].startswith("3.1")
    script = site.ask("GET", "/api/docs/assets/swagger-ui-bundle.js").text
    assert re.search(r'PACKAGE_VERSION:"5\.', script)
