"""Bad bodies get clear answers, whatever was sent; and a request with an idempotency key runs once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_client import ApiClient, a_farm, a_site
from fastapi import Request
from fastapi.routing import APIRoute

from framefarm.core.errors import FieldError, InvalidInput
from framefarm.server.app import ROUTERS
from framefarm.server.database import Tx
from framefarm.server.http import errors, request_limits
from framefarm.server.http.tables import idempotency
from framefarm.server.job_api import detail
from framefarm.server.jobs.tables import jobs
from framefarm.server.submission import storing

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    """One farm for all tests whose bodies do not reach the database."""
    with a_farm(tmp_path_factory.mktemp("bodies"), None) as context, a_site(context) as site:
        yield site


def send(site: ApiClient, body: bytes, media_type: str | None = "application/json") -> Any:
    return site.ask(
        "POST", "/api/jobs", content=body, headers={"Content-Type": media_type} if media_type else {}
    )


def with_title(site: ApiClient, text: str) -> bytes:
    """A submission whose title is this JSON text."""
    return json.dumps(site.payload(job_title="@")).replace('"@"', text).encode()


def with_metadata(site: ApiClient, text: str) -> bytes:
    return json.dumps(site.payload(metadata="@")).replace('"@"', text).encode()


BAD_BODIES: list[Any] = [
    ("nothing", b"", "is required"),
    ("null", b"null", "must be an object"),
    ("list", b"[]", "must be an object"),
    ("list-of-payloads", b'[{"job_title": "x"}]', "must be an object"),
    ("text", b'"x"', "must be an object"),
    ("number", b"7", "must be an object"),
    ("true", b"true", "must be an object"),
    ("blank", b"   ", "is not JSON"),
    ("half", b'{"job_title": "x"', "is not JSON"),
    ("two", b"{}{}", "is not JSON"),
    ("single-quotes", b"{'job_title': 1}", "line 1, column 2"),
    ("trailing-comma", b'{"job_title": "x",}', "is not JSON"),
    ("not-utf-8", b'{"job_title": "\xff"}', "UTF-8"),
    ("utf-16", '{"job_title": "x"}'.encode("utf-16"), "UTF-8"),
    ("byte-order-mark", b"\xef\xbb\xbf{}", "is not JSON"),
    ("raw-nul", b'{"job_title": "a\x00b"}', "is not JSON"),
    ("raw-newline", b'{"job_title": "a\nb"}', "is not JSON"),
    ("deep-lists", b"[" * 100_000, "nested too deep"),
    ("deep-objects", b'{"a":' * 100_000, "nested too deep"),
]


@pytest.mark.parametrize(("body", "message"), [pytest.param(*b[1:], id=b[0]) for b in BAD_BODIES])
def test_a_body_that_is_no_json_object_is_refused(shared: ApiClient, body: bytes, message: str) -> None:
    answer = send(shared, body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == "body"
    assert message in error["message"]


NUMBERS = [
    "9223372036854775808", "-9223372036854775809", "1e400", "-1e400", "1" + "0" * 5000, "NaN", "Infinity",
    "-Infinity", "1E+999999999",
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n[:12])
@pytest.mark.parametrize("template", ['{"a": %s}', '[{"b": [%s]}]', "%s"])
def test_a_number_beyond_64_bits_is_refused_at_any_depth(
    shared: ApiClient, template: str, number: str
) -> None:
    answer = send(shared, with_metadata(shared, template % number))
    assert answer.status_code == 422, answer.text
    assert [e["field"] for e in answer.json()["errors"]] == ["body"]


@pytest.mark.parametrize("text", ["12345678901234567890123", "0x" + "f" * 30, "1e400", "NaN"])
def test_text_that_looks_like_such_a_number_is_text(shared: ApiClient, text: str) -> None:
    assert send(shared, with_title(shared, json.dumps(text))).status_code == 201


@pytest.mark.parametrize(
    "piece", ['"a\\u0000b"', '{"\\u0000": "a"}', '[["\\u0000"]]', '{"a": {"b": ["\\u0000"]}}']
)
def test_a_nul_character_is_refused_at_any_depth(shared: ApiClient, piece: str) -> None:
    answer = send(shared, with_metadata(shared, piece))
    assert answer.status_code == 422, answer.text
    assert "NUL" in answer.json()["detail"]


def test_text_that_looks_like_an_escaped_nul_is_text(shared: ApiClient) -> None:
    answer = send(shared, with_title(shared, '"C:\\\\u0000"'))
    assert answer.status_code == 201, answer.text
    assert answer.json()["job_title"] == "C:\\u0000"


@pytest.mark.parametrize("piece", ['"\\ud800"', '{"\\ud800": "a"}', '{"a": "\\udfff"}', '["\\ud800"]'])
def test_a_lone_surrogate_is_refused_and_the_answer_is_valid_utf_8(shared: ApiClient, piece: str) -> None:
    answer = send(shared, with_metadata(shared, piece))
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"].startswith("metadata")


@pytest.mark.parametrize(
    "media_type",
    [
        None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/xml", "application/jsonp", "nonsense",
    ],
)  # fmt: skip
def test_a_body_of_another_media_type_is_a_415_that_names_json(
    shared: ApiClient, media_type: str | None
) -> None:
    answer = send(shared, json.dumps(shared.payload()).encode(), media_type)
    assert answer.status_code == 415, answer.text
    assert "application/json" in answer.json()["detail"]


def test_a_charset_beside_the_media_type_is_accepted(shared: ApiClient) -> None:
    body = json.dumps(shared.payload()).encode()
    assert send(shared, body, "Application/JSON; charset=utf-8").status_code == 201


@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
def test_a_body_over_the_limit_is_a_413_for_any_media_type(shared: ApiClient, media_type: str) -> None:
    limit = shared.context.settings.max_json_bytes
    assert limit == 32 << 20
    answer = send(shared, b" " * (limit + 1), media_type)
    assert answer.status_code == 413, answer.text
    assert str(limit) in answer.json()["detail"]


def test_a_body_of_exactly_the_limit_is_accepted(shared: ApiClient) -> None:
    body = json.dumps(shared.payload()).encode()
    assert send(shared, body.ljust(shared.context.settings.max_json_bytes)).status_code == 201


def routes_with_bodies() -> list[tuple[str, str]]:
    found = []
    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.body_field is not None:
                found += [(method, route.path) for method in sorted(route.methods or ())]
    return sorted(found)


BROKEN: list[bytes] = [b"", b"[]", b"{", b"null", b'{"\\ud800": "\\u0000"}', b'{"a": 1e999}', b"[" * 100_000]


@pytest.mark.parametrize(("method", "path"), routes_with_bodies())
def test_no_route_fails_on_a_broken_body(shared: ApiClient, method: str, path: str) -> None:
    for body in BROKEN:
        answer = shared.ask(method, path.replace("{", "").replace("}", ""), content=body, headers=JSON)
        assert answer.status_code < 500, (body[:20], answer.text)


@pytest.mark.parametrize("number", ["9223372036854775807", "-9223372036854775808", "1e308", "0", "-0.0"])
def test_numbers_of_64_bits_are_accepted(number: str) -> None:
    request_limits.check_json(f"[{number}]".encode())


def test_a_syntax_error_is_reported_with_its_line_and_column() -> None:
    with pytest.raises(InvalidInput) as refused:
        request_limits.check_json(b'{\n  "a": tru\n}')
    assert "line 2, column 8" in refused.value.detail


# -------------------------------------------------------------- large bodies and large answers


def many_paths(site: ApiClient, count: int) -> bytes:
    textures = [f"/film/textures/{i:06d}.png" for i in range(count)]
    return json.dumps(site.payload(upload_paths=["/film/shot.blend", *textures])).encode()


def test_large_bodies_and_answers_are_parsed_and_encoded_outside_of_the_event_loop(
    site: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bool]] = []

    def record(module: Any, name: str) -> None:
        real = getattr(module, name)

        def recorded(*args: Any) -> Any:
            calls.append((name, threading.current_thread() is threading.main_thread()))
            return real(*args)

        monkeypatch.setattr(module, name, recorded)

    record(request_limits, "check_json")
    record(detail, "encode")
    monkeypatch.setattr(Request, "json", None)  # the framework would parse the body again
    submitted = send(site, many_paths(site, 5000))
    assert submitted.status_code == 201, submitted.text
    job = site.ask("GET", f"/api/jobs/{submitted.json()['id']}")
    assert job.json() == submitted.json()
    assert len(job.json()["inputs"]) == len(job.json()["missing_paths"]) == 5001
    assert job.json()["upload_paths"] == [i["path"] for i in job.json()["inputs"]]
    assert calls == [("check_json", False), ("encode", False), ("encode", False)]


def test_a_stored_answer_does_not_store_the_inputs_a_second_time(site: ApiClient) -> None:
    payload = json.loads(many_paths(site, 3))
    first = keyed(site, payload)
    assert len(first.json()["inputs"]) == 4
    assert not {"inputs", "upload_paths"} & set(site.row(idempotency)["answer"])
    site.upload("/film/textures/000001.png")
    assert keyed(site, payload).json() == first.json()


@pytest.mark.parametrize("piece", [b"1,", b'"",', b"1.5,"])
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(shared: ApiClient, piece: bytes) -> None:
    answer = send(shared, b"[" + piece * (request_limits.MAX_COMMAS + 1) + b"1]")
    assert answer.status_code == 422, answer.text
    assert "2,000,000 commas" in answer.json()["errors"][0]["message"]


def test_only_the_beginning_of_a_long_value_is_reported() -> None:
    class Endless(list[int]):
        def __iter__(self) -> Iterator[int]:
            return itertools.repeat(1)

    error = FieldError("name", "must be text", {"a": Endless([1])})
    assert errors._plain(error)["given"] == '{"a": [1, ' + "1, " * 63 + "1"


def test_only_routes_that_need_large_bodies_accept_them(shared: ApiClient) -> None:
    body = json.dumps({"name": "x"}).encode().ljust(request_limits.LARGE_BYTES + 1)
    answer = shared.ask("POST", "/api/projects", content=body, headers=JSON)
    assert answer.status_code == 413, answer.text


def test_a_third_large_body_of_a_user_at_once_is_refused(shared: ApiClient) -> None:
    member = shared.member("two@studio.example")

    async def slow(begun: asyncio.Event, resume: asyncio.Event) -> AsyncIterator[bytes]:
        yield b" " * (request_limits.LARGE_BYTES + 1)
        begun.set()
        await resume.wait()
        yield b"{}"

    async def race() -> tuple[list[int], Any, int]:
        resume = asyncio.Event()
        sending = []
        for _ in range(request_limits.LARGE_OF_ONE):
            begun = asyncio.Event()
            call = member.call("POST", "/api/jobs", content=slow(begun, resume), headers=JSON)
            sending.append(asyncio.create_task(call))
            await begun.wait()
        third = await member.call(
            "POST", "/api/jobs", content=b" " * (request_limits.LARGE_BYTES + 1), headers=JSON
        )
        another = await shared.call("POST", "/api/jobs", content=b" " * (2 << 20), headers=JSON)
        resume.set()
        return [(await call).status_code for call in sending], third, another.status_code

    first, third, another = shared.loop.run(race())
    assert (third.status_code, third.headers["retry-after"]) == (429, "1")
    assert (first, another) == ([422, 422], 422)
    assert send(member, b" " * (request_limits.LARGE_BYTES + 1)).status_code == 422


@pytest.mark.parametrize("known", [True, False])
def test_a_body_that_does_not_arrive_in_time_is_a_408(
    shared: ApiClient, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    monkeypatch.setattr(request_limits, "BODY_SECONDS" if known else "ANONYMOUS_SECONDS", 0.01)

    async def stuck() -> AsyncIterator[bytes]:
        yield b" " * (request_limits.ANONYMOUS_BYTES + 1 if known else 1)
        await asyncio.Event().wait()

    answer = shared.loop.run(shared.call("POST", "/api/jobs", content=stuck(), headers=JSON))
    assert answer.status_code == 408, answer.text


# ------------------------------------------------------------------------------ idempotency keys


def keyed(site: ApiClient, payload: dict[str, Any], key: str = "k", path: str = "/api/jobs") -> Any:
    return site.ask("POST", path, json=payload, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_an_invalid_idempotency_key_is_refused(shared: ApiClient, key: str) -> None:
    answer = keyed(shared, shared.payload(), key)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_a_repeat_gets_the_first_answer_even_after_the_project_was_archived(site: ApiClient) -> None:
    project = site.ask("POST", "/api/projects", json={"name": "old"}).json()
    payload = site.payload(project="old")
    first = keyed(site, payload)
    assert first.status_code == 201, first.text
    site.ask("PATCH", f"/api/projects/{project['id']}", json={"status": "archived"})
    again = keyed(site, payload)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(site.rows(jobs)) == 1


def test_a_refused_submission_leaves_its_key_free(site: ApiClient) -> None:
    assert keyed(site, site.payload(chunk_size=0)).status_code == 422
    assert keyed(site, site.payload()).status_code == 201


def test_a_key_belongs_to_its_user_and_path(site: ApiClient, other: ApiClient) -> None:
    member = site.member()
    assert keyed(site, site.payload()).status_code == 201
    assert keyed(member, member.payload()).status_code == 201
    assert keyed(other, other.payload()).status_code == 201
    assert keyed(site, {"name": "Another"}, path="/api/projects").status_code < 300


class Race:
    """Submissions that stop within their transaction until `resume` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inside, self.resume = threading.Event(), threading.Event()
        store = storing.store

        def slow(tx: Tx, *args: Any) -> str:
            self.inside.set()
            assert self.resume.wait(30)
            return store(tx, *args)

        monkeypatch.setattr(storing, "store", slow)


@contextlib.contextmanager
def two_replicas(folder: Path, url: str) -> Iterator[tuple[ApiClient, ApiClient]]:
    """One farm by two servers, which share only its database and its data directory."""
    with a_farm(folder, url) as one, a_farm(folder, url) as two, a_site(one) as site, a_site(two) as twin:
        yield site, twin


def test_a_key_in_work_on_one_replica_is_refused_on_the_other_with_retry_after(
    tmp_path: Path, postgres: Callable[[bool], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_replicas(tmp_path, postgres(True)) as (site, twin):
        race, answers = Race(monkeypatch), []
        payload = site.payload()
        working = threading.Thread(target=lambda: answers.append(keyed(site, payload)))
        working.start()
        assert race.inside.wait(30)
        second = keyed(twin, payload)
        race.resume.set()
        working.join(30)
        assert (second.status_code, second.headers["retry-after"]) == (409, "1")
        (first,) = answers
        assert first.status_code == 201, first.text
        again = keyed(twin, payload)
        assert (again.status_code, again.json()) == (201, first.json())
        assert len(site.rows(jobs)) == 1


def test_simultaneous_repeats_on_two_replicas_make_one_job_each(
    tmp_path: Path, postgres: Callable[[bool], str]
) -> None:
    with two_replicas(tmp_path, postgres(True)) as (site, twin):
        payload, barrier = site.payload(), threading.Barrier(2)
        answers: list[Any] = []

        def work(replica: ApiClient) -> None:
            for i in range(10):
                barrier.wait(30)
                answers.append(keyed(replica, payload | {"job_title": f"Shot {i}"}, f"key {i}"))

        threads = [threading.Thread(target=work, args=(replica,)) for replica in (site, twin)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(answers) == 20
        assert {a.status_code for a in answers} <= {201, 409}
        assert all("retry-after" in a.headers for a in answers if a.status_code == 409)
        assert len(site.rows(jobs)) == 10
