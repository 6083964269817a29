"""Where a webhook may go: the name is resolved once, each of its addresses is judged, and one of exactly
those is connected to. No proxy of the environment, no redirect: see `Guarded` and `sender.py`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpcore2

from framefarm.core.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_URL = 2000
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Forbidden(Exception):
    """The address is not one that the farm calls; the text says which, and why."""


def networks(text: str) -> tuple[Network, ...]:
    """`127.0.0.0/8, 10.1.2.3` as networks. Raises ValueError."""
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


def judge(address: Address, allowed: Iterable[Network]) -> None:
    """Raises Forbidden for an address of this machine, a private network, or a cloud's metadata service."""
    plain = _unwrapped(address)
    for one in {address, plain}:
        if any(one.version == network.version and one in network for network in allowed):
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
    """The host's addresses, each of them judged. Raises Forbidden, OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for text in addresses:
        judge(ipaddress.ip_address(text.partition("%")[0]), allowed)
    if not addresses:
        raise OSError(f"{host} has no address")
    return addresses


class Guarded(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses that were judged, and to no name."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._inner: Any = httpcore2.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        try:
            addresses = await resolve(host, port, self._allowed)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} can't be resolved: {error}") from error
        failure: Exception | None = None
        for address in addresses[:4]:
            try:
                return await self._inner.connect_tcp(address, port, *args, **kwargs)
            except httpcore2.ConnectError as error:
                failure = error
        raise failure or httpcore2.ConnectError(f"{host} can't be reached")

    async def connect_unix_socket(self, path: str, *args: Any, **kwargs: Any) -> Any:
        raise Forbidden("a webhook never goes to a local socket")
