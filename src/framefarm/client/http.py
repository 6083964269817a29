"""HTTP calls to one farm: answers as decoded JSON, error answers as exceptions.

Calls that are repeated, for up to `patience_seconds`:
- every call that did not reach the farm (no connection), and after 429 and 503, as their Retry-After asks;
- after a broken connection, 502, 504 or a 409 with Retry-After, only calls that may run twice: GET, and those
  that the caller marks `repeatable` (the farm identifies an upload by its content, a job by its
  Idempotency-Key).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx

from framefarm import __version__
from framefarm.client.errors import LocalProblem, LoginNeeded, Refused, Unreachable

PATIENCE_SECONDS = 30.0
"""Longest time from the first attempt of a call to its last, pauses included."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 3.0
"""The pause before an attempt doubles from the first to the longest."""
PAGE_ITEMS = 500
SILENCE_SECONDS = 45.0
"""Time without a byte after which an event stream counts as broken: a farm sends a comment every 15 s."""

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def clean_url(url: str) -> str:
    """`url` as a farm's base URL: with a scheme, without a final slash. Raises LocalProblem if it is none."""
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    text = text.rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        valid = False
    if not valid or parts.username or parts.query or parts.fragment:
        raise LocalProblem(f"{url!r} is not the address of a farm; give one like http://farm.example:8000.")
    return text


class EventStream:
    """Server-sent events as they arrive. Iterating ends without an error when the stream ends or breaks."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[httpx.ServerSentEvent]:
        with suppress(httpx.HTTPError, httpx.StreamError):
            yield from httpx.EventSource(self._response)

    def hang_up(self) -> None:
        """Close the connection from another thread; the iterator ends even while it waits."""
        with suppress(OSError, KeyError, AttributeError):
            connection = self._response.extensions["network_stream"].get_extra_info("socket")
            connection.shutdown(socket.SHUT_RDWR)


class Client:
    """Calls to one farm with one token, safe to use from several threads.

    Every call raises Refused (LoginNeeded for 401) for an error answer and Unreachable without an answer of a
    farm.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        on_wait: Callable[[str], object] | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a client; it opens no connection yet. Raises LocalProblem if `url` is not a farm's address.

        Args:
            patience_seconds: how long a call is repeated.
            on_wait: called before each pause with a sentence that says why.
            transport, sleep, clock: replaced in tests; `clock` in seconds.
        """
        self.url = clean_url(url)
        self._token = token
        self._on_wait = on_wait
        self.patience_seconds = patience_seconds
        self._sleep = sleep
        self._clock = clock
        self._http = httpx.Client(
            base_url=self.url,
            headers={"User-Agent": f"framefarm/{__version__}", "Accept": "application/json"},
            timeout=httpx.Timeout(60.0, connect=10.0),
            limits=httpx.Limits(max_connections=32, keepalive_expiry=4.0),
            transport=transport,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------- JSON

    def get(self, path: str, **params: Any) -> Any:
        """Answer to a GET, as JSON. Query parameters that are None are left out."""
        query = {key: value for key, value in params.items() if value is not None}
        return self._json("GET", path, params=query, repeatable=True)

    def get_text(self, path: str, **params: Any) -> str:
        """Answer to a GET, as text. Query parameters that are None are left out."""
        query = {key: value for key, value in params.items() if value is not None}
        return self._request("GET", path, params=query, repeatable=True).text

    def pages(self, path: str, *, limit: int | None = None, **params: Any) -> Iterator[dict[str, Any]]:
        """Items of a list, fetched page by page; at most `limit`."""
        remaining, cursor = limit, None
        while remaining is None or remaining > 0:
            page = self.get(path, limit=min(PAGE_ITEMS, remaining or PAGE_ITEMS), cursor=cursor, **params)
            yield from page["data"][:remaining]
            remaining = None if remaining is None else remaining - len(page["data"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Answer to a POST, as JSON.

        An `idempotency_key` makes the call repeatable: a repeated call returns the first one's answer.
        """
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        safe = repeatable or idempotency_key is not None
        return self._json("POST", path, json=body, params=params, headers=headers, repeatable=safe)

    def patch(self, path: str, body: Any) -> Any:
        """Answer to a PATCH, as JSON. Not repeated after a broken connection."""
        return self._json("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        """DELETE. Not repeated after a broken connection."""
        self._request("DELETE", path)

    def send(self, path: str, make_content: Callable[[], Iterable[bytes]], headers: Mapping[str, str]) -> Any:
        """POST a body and return the JSON answer. `make_content` makes the body again for each attempt."""
        return self._json("POST", path, make_content=make_content, headers=headers, repeatable=True)

    # ------------------------------------------------------------------------------ bytes

    @contextmanager
    def fetch(self, url: str) -> Iterator[httpx.Response]:
        """Response of a signed URL, to be streamed. The token is not sent: the URL's signature suffices."""
        absolute = urljoin(self.url + "/", url)
        request = self._http.build_request("GET", absolute, headers={"Accept-Encoding": "identity"})
        try:
            response = self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise Unreachable(f"{_origin(absolute)} does not answer: {_reason(error)}.") from error
        try:
            if response.status_code != 200:
                response.read()
                raise _refusal(response)
            yield response
        except httpx.HTTPError as error:
            raise Unreachable(f"The connection to {_origin(absolute)} broke: {_reason(error)}.") from error
        finally:
            response.close()

    # ----------------------------------------------------------------------------- events

    @contextmanager
    def events(self, path: str, last_id: str = "") -> Iterator[EventStream]:
        """Event stream, beginning after `last_id`. Raises Refused if the answer is not an event stream."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        headers |= {"Last-Event-ID": last_id} if last_id else {}
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=10.0)
        response = self._request(
            "GET", path, repeatable=True, headers=headers, streamed=True, timeout=timeout
        )
        try:
            content_type = response.headers.get("Content-Type", "")
            if content_type.partition(";")[0].strip().lower() != "text/event-stream":
                raise Refused(
                    response.status_code, {"detail": f"the answer is {content_type or 'without a type'}"}
                )
            yield EventStream(response)
        finally:
            response.close()

    # ---------------------------------------------------------------------------- private

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self._request(method, path, **options)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise Unreachable(
                f"{self.url} answered, but its answer is not a farm's. Check the address."
            ) from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = False,
        headers: Mapping[str, str] | None = None,
        make_content: Callable[[], Iterable[bytes]] | None = None,
        streamed: bool = False,
        **options: Any,
    ) -> httpx.Response:
        sent_headers = dict(headers or {})
        if self._token:
            sent_headers["Authorization"] = f"Bearer {self._token}"
        deadline = self._clock() + self.patience_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                content = None if make_content is None else make_content()
                request = self._http.build_request(
                    method, path, headers=sent_headers, content=content, **options
                )
                response = self._http.send(request, stream=streamed)
                if response.status_code >= 300:
                    response.read()
            except httpx.HTTPError as error:
                wait = pause if repeatable or isinstance(error, _NEVER_SENT) else None
                failure: Refused | Unreachable = self._unreachable(error)
            else:
                if response.status_code < 300:
                    return response
                failure = _refusal(response)
                wait = _pause_before_retry(failure, repeatable, pause)
            if wait is None or self._clock() + wait > deadline:
                raise failure
            if self._on_wait is not None:
                self._on_wait(failure.detail)
            self._sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        if isinstance(error, _NEVER_SENT):
            return Unreachable(f"No farm answers at {self.url} ({_reason(error)}). Is it running?")
        return Unreachable(f"The connection to {self.url} broke ({_reason(error)}).")


def _pause_before_retry(failure: Refused, repeatable: bool, pause: float) -> float | None:
    """Seconds to wait before the call is repeated; None if it must not be."""
    if failure.status in {429, 503}:
        return failure.retry_after_seconds if failure.retry_after_seconds is not None else pause
    if failure.status == 409 and repeatable:
        return failure.retry_after_seconds
    return pause if failure.status in {502, 504} and repeatable else None


def _refusal(response: httpx.Response) -> Refused:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        origin = _origin(str(response.request.url))
        problem = {"detail": f"{origin} answered {response.status_code} {response.reason_phrase}."}
    error_type = LoginNeeded if response.status_code == 401 else Refused
    return error_type(
        response.status_code, problem, _retry_after_seconds(response.headers.get("Retry-After"))
    )


def _retry_after_seconds(text: str | None) -> float | None:
    try:
        return max(float(text), 0.0) if text else None
    except ValueError:
        return None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _reason(error: Exception) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error).strip()).rstrip(".") or type(error).__name__
