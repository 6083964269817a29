"""Addresses that webhooks may connect to: public ones, and the networks that the operator allows.

A host name is resolved once, every address is checked, and only a checked address is connected to.
Environment proxies and redirects are not used (`sender.py`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import httpcore2

from framefarm.core.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_URL = 2000
"""Most characters of a webhook's URL."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Forbidden(Exception):
    """A webhook may not connect to the address; the text names it and the reason."""


def networks(text: str) -> tuple[Network, ...]:
    """Networks of a comma-separated list, as `127.0.0.0/8, 10.1.2.3`. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def check_url(url: str) -> tuple[str, int]:
    """(host, port) of an http or https URL. Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.hostname or ""
        host.encode("idna")
    except (ValueError, UnicodeError):
        parts, host, port = None, "", 0
    plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if parts is None or parts.scheme not in {"http", "https"} or not host or not plain or len(url) > MAX_URL:
        text = "must be an http or https address of at most 2000 ASCII characters"
        raise InvalidInput.of("url", text, url[:200])
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidInput.of("url", "must have no user, password or #fragment in it", host)
    return host, port


def check_address(address: Address, allowed: Iterable[Network]) -> None:
    """Refuse addresses of this machine, of private networks and of a cloud's metadata service.

    Raises Forbidden, unless one of the `allowed` networks holds the address.
    """
    plain = _unwrapped(address)
    for candidate in {address, plain}:
        if any(candidate.version == network.version and candidate in network for network in allowed):
            return
    if not plain.is_global or plain.is_multicast or plain.is_reserved or plain.is_unspecified:
        raise Forbidden(f"{address} is not an address on the public internet")


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or int(address) >> 32 == 0:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


async def resolve(host: str, port: int, allowed: Sequence[Network]) -> list[str]:
    """Addresses of a host, all of them checked. Raises Forbidden, OSError."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
    for text in addresses:
        check_address(ipaddress.ip_address(text.partition("%")[0]), allowed)
    if not addresses:
        raise OSError(f"{host} has no address")
    return addresses


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Network backend that connects to checked addresses only, never to a name."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            addresses = await resolve(host, port, self._allowed)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} can't be resolved: {error}") from error
        failure: Exception | None = None
        for address in addresses[:4]:
            try:
                return await self._inner.connect_tcp(
                    address,
                    port,
                    timeout=timeout,
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except httpcore2.ConnectError as error:
                failure = error
        raise failure or httpcore2.ConnectError(f"{host} can't be reached")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise Forbidden("a webhook never goes to a local socket")
