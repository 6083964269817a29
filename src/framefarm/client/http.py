"""One farm over HTTP: base URL and token in, JSON out, and every refusal as an exception.

What is tried again, and when:
- anything that never reached the farm (no connection), and 429 and 503, after their Retry-After;
- after a connection that broke in between only what may safely be done twice: GET, and what the caller marks
  `repeatable` (uploads are known by their content, a job by its Idempotency-Key).
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
"""How long a call is tried again in all, waits included."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 3.0
PAGE = 500
SILENCE_SECONDS = 45.0
"""An event stream that says nothing for so long is broken: a farm keeps it alive every 15 s."""

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def clean_url(url: str) -> str:
    """The farm's base URL without a slash at its end. Raises LocalProblem if it is none."""
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    text = text.rstrip("/")
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        raise LocalProblem(f"{url!r} is not the address of a farm; it looks like http://farm.example:8000.")
    return text


class EventStream:
    """Server-sent events as they come, until the stream ends or breaks: then iterating just ends."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[httpx.ServerSentEvent]:
        with suppress(httpx.HTTPError, httpx.StreamError):
            yield from httpx.EventSource(self._response)

    def hang_up(self) -> None:
        """End it from another thread, though it waits."""
        with suppress(OSError, KeyError, AttributeError):
            wire = self._response.extensions["network_stream"].get_extra_info("socket")
            wire.shutdown(socket.SHUT_RDWR)


class Client:
    """Calls to one farm with one token. Safe to use from several threads at once."""

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
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------- JSON

    def get(self, path: str, **params: Any) -> Any:
        given = {key: value for key, value in params.items() if value is not None}
        return self._json("GET", path, params=given, repeatable=True)

    def get_text(self, path: str, **params: Any) -> str:
        given = {key: value for key, value in params.items() if value is not None}
        return self._answer("GET", path, params=given, repeatable=True).text

    def pages(self, path: str, *, limit: int | None = None, **params: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, page after page; at most `limit` of them."""
        left, cursor = limit, None
        while left is None or left > 0:
            page = self.get(path, limit=min(PAGE, left or PAGE), cursor=cursor, **params)
            yield from page["data"][:left]
            left = None if left is None else left - len(page["data"])
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
        """An `idempotency_key` makes the call repeatable: a second one gets the first one's answer."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        safe = repeatable or idempotency_key is not None
        return self._json("POST", path, json=body, params=params, headers=headers, repeatable=safe)

    def patch(self, path: str, body: Any) -> Any:
        return self._json("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        self._answer("DELETE", path)

    def send(self, path: str, make_content: Callable[[], Iterable[bytes]], headers: Mapping[str, str]) -> Any:
        """POST a stream that `make_content` makes afresh for every try."""
        return self._json("POST", path, make_content=make_content, headers=headers, repeatable=True)

    # ------------------------------------------------------------------------------ bytes

    @contextmanager
    def fetch(self, url: str) -> Iterator[httpx.Response]:
        """A signed URL, streamed. The token is never sent along: the URL's signature is all it needs."""
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
            raise Unreachable(f"{_origin(absolute)} broke off: {_reason(error)}.") from error
        finally:
            response.close()

    # ----------------------------------------------------------------------------- events

    @contextmanager
    def events(self, path: str, last_id: str = "") -> Iterator[EventStream]:
        """A stream of events from the one after `last_id` on. Raises Refused if it cannot be had."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        headers |= {"Last-Event-ID": last_id} if last_id else {}
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=10.0)
        response = self._answer("GET", path, repeatable=True, headers=headers, streamed=True, timeout=timeout)
        try:
            kind = response.headers.get("Content-Type", "")
            if kind.partition(";")[0].strip().lower() != "text/event-stream":
                raise Refused(response.status_code, {"detail": f"the answer is {kind or 'of no kind'}"})
            yield EventStream(response)
        finally:
            response.close()

    # ---------------------------------------------------------------------------- inwards

    def _json(self, method: str, path: str, **how: Any) -> Any:
        response = self._answer(method, path, **how)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise Unreachable(
                f"{self.url} answered, but not as a farm does. Is the address right?"
            ) from error

    def _answer(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = False,
        headers: Mapping[str, str] | None = None,
        make_content: Callable[[], Iterable[bytes]] | None = None,
        streamed: bool = False,
        **how: Any,
    ) -> httpx.Response:
        sent_headers = dict(headers or {})
        if self._token:
            sent_headers["Authorization"] = f"Bearer {self._token}"
        deadline = self._clock() + self.patience_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                content = None if make_content is None else make_content()
                request = self._http.build_request(method, path, headers=sent_headers, content=content, **how)
                response = self._http.send(request, stream=streamed)
                if response.status_code >= 300:
                    response.read()
            except httpx.HTTPError as error:
                wait = pause if repeatable or isinstance(error, _NEVER_SENT) else None
                failure: Refused | Unreachable = self._no_answer(error)
            else:
                if response.status_code < 300:
                    return response
                failure = _refusal(response)
                wait = _pause_asked_for(failure, repeatable, pause)
            if wait is None or self._clock() + wait > deadline:
                raise failure
            if self._on_wait is not None:
                self._on_wait(failure.detail)
            self._sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _no_answer(self, error: httpx.HTTPError) -> Unreachable:
        if isinstance(error, _NEVER_SENT):
            return Unreachable(f"No farm answers at {self.url} ({_reason(error)}). Is it running?")
        return Unreachable(f"The connection to {self.url} broke ({_reason(error)}).")


def _pause_asked_for(failure: Refused, repeatable: bool, pause: float) -> float | None:
    """Seconds to wait before the same call has a chance, None if it has none."""
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
        where = _origin(str(response.request.url))
        problem = {"detail": f"{where} answered {response.status_code} {response.reason_phrase}."}
    kind = LoginNeeded if response.status_code == 401 else Refused
    return kind(response.status_code, problem, _retry_after_seconds(response.headers.get("Retry-After")))


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
