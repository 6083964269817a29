from __future__ import annotations

import pytest
from fake_farm import FakeFarm

from framefarm.client import Client, LocalProblem, LoginNeeded, Refused, Unreachable
from framefarm.client.http import clean_url


class FakeTime:
    """A clock that only `sleep` advances, without waiting; in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def client_of(fake: FakeFarm, time: FakeTime | None = None) -> Client:
    time = time or FakeTime()
    return Client(fake.url, "t0k", sleep=time.sleep, clock=lambda: time.now)


def test_a_refusal_carries_every_bad_field(fake: FakeFarm) -> None:
    errors = [{"field": "a", "message": "is bad", "given": 0}, {"field": "b", "message": "is worse"}]
    fake.failures = [(422, {}, {"title": "Bad input", "detail": "two are bad", "errors": errors})]
    with pytest.raises(Refused) as refused:
        client_of(fake).post("/api/jobs", {})
    assert [(e.field, e.message, e.given) for e in refused.value.errors] == [
        ("a", "is bad", 0),
        ("b", "is worse", None),
    ]
    assert str(refused.value) == "two are bad"


def test_an_expired_login_is_an_exception_of_its_own(fake: FakeFarm) -> None:
    fake.failures = [(401, {}, {"detail": "Not logged in."})]
    with pytest.raises(LoginNeeded):
        client_of(fake).get("/api/jobs")


def test_retry_after_is_honoured_even_for_calls_that_must_not_run_twice(fake: FakeFarm) -> None:
    time = FakeTime()
    fake.failures = [(503, {"Retry-After": "7"}, {}), (429, {"Retry-After": "2"}, {})]
    client_of(fake, time).patch("/api/jobs/job_1", {"action": "hold"})
    assert time.waits == [7.0, 2.0]


def test_a_wait_longer_than_the_patience_fails_at_once(fake: FakeFarm) -> None:
    time = FakeTime()
    fake.failures = [(429, {"Retry-After": "600"}, {"detail": "Too many logins."})]
    with pytest.raises(Refused) as refused:
        client_of(fake, time).post("/api/auth/login", {"email": "a", "password": "b"})
    assert (refused.value.retry_after_seconds, time.waits) == (600.0, [])


def test_a_read_is_repeated_when_the_connection_breaks(fake: FakeFarm) -> None:
    fake.failures = [(0, {}, {}), (0, {}, {})]
    assert client_of(fake).get("/api/packages")["data"]
    assert len(fake.received) == 3


def test_a_change_is_not_repeated_when_the_connection_breaks(fake: FakeFarm) -> None:
    fake.failures = [(0, {}, {})]
    with pytest.raises(Unreachable):
        client_of(fake).patch("/api/jobs/job_1", {"action": "unhold"})
    assert len(fake.received) == 1


def test_a_job_is_posted_again_under_the_same_key_when_the_connection_breaks(fake: FakeFarm) -> None:
    fake.failures = [(0, {}, {}), (409, {"Retry-After": "1"}, {"detail": "A twin is in flight."})]
    client_of(fake).post("/api/jobs", {"job_title": "x"}, idempotency_key="k1")
    assert [r.headers["idempotency-key"] for r in fake.received] == ["k1"] * 3


def test_a_farm_that_does_not_answer_is_reported_in_one_sentence() -> None:
    time = FakeTime()
    with pytest.raises(Unreachable, match=r"No farm answers at http://127\.0\.0\.1:9"):
        Client("http://127.0.0.1:9", sleep=time.sleep, clock=lambda: time.now).get("/api/jobs")
    assert time.now > 10


def test_an_error_answer_without_a_problem_document_is_reported_with_its_status(fake: FakeFarm) -> None:
    fake.failures = [(404, {"Content-Type": "text/html"}, {})]
    with pytest.raises(Refused, match="404"):
        client_of(fake).get("/api/jobs")


def test_the_token_is_not_sent_with_a_signed_address(fake: FakeFarm) -> None:
    fake.rendered("a.png", b"picture")
    with client_of(fake).fetch("/signed/0") as response:
        assert response.read() == b"picture"
    assert "authorization" not in fake.received[-1].headers


@pytest.mark.parametrize("url", ["ftp://farm", "http://", "http://user:pw@farm", "http://farm/?a=b"])
def test_an_address_that_is_no_farms_is_rejected(url: str) -> None:
    with pytest.raises(LocalProblem):
        clean_url(url)


@pytest.mark.parametrize("url", ["farm:8000", "http://farm:8000/", " http://farm:8000"])
def test_addresses_are_normalised(url: str) -> None:
    assert clean_url(url) == "http://farm:8000"


def test_the_reason_of_each_wait_is_reported() -> None:
    reasons: list[str] = []
    clock = iter(range(0, 1000, 10))
    with (
        Client(
            "http://127.0.0.1:9", on_wait=reasons.append, sleep=lambda _: None, clock=lambda: next(clock)
        ) as client,
        pytest.raises(Unreachable),
    ):
        client.get("/api/projects")
    assert reasons and all(r.startswith("No farm answers at http://127.0.0.1:9") for r in reasons)
