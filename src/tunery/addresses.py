"""Which addresses outside may be called: of webhooks, the judge and the upstream. A host is looked up once, and what
was checked is what is connected to, so that no second look-up can differ. No redirect is followed.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from tunery.settings import Settings
from tunery.texts import say

MAX_TRIED = 3  # addresses of one host
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

# IANA's registries of special-purpose addresses (RFC 6890 and what came after it), as of 2025, and multicast.
SPECIAL_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' own
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # the rest: loopback, IPv4 inside IPv6, NAT64, private, link-local …
SPECIAL_IPV6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID …
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


class RefusedTarget(Exception):
    """The address must not be called; the message says why."""


class PrivateTarget(RefusedTarget):
    """Not while the settings do not allow its private address, whatever the server there may be."""


@dataclass(frozen=True)
class Target:
    url: str  # the host replaced by the address that was checked
    host_header: str
    server_name: str  # the name that the TLS certificate must carry

    def instead_of(self, request: httpx.Request) -> httpx.Request:
        extensions = {**request.extensions, "sni_hostname": self.server_name}
        return httpx.Request(
            request.method, self.url, headers=request.headers, stream=request.stream, extensions=extensions
        )


def of_webhooks(settings: Settings) -> Networks:
    """The private networks that a client's address may lie in."""
    return _named(settings.private_networks) if settings.webhook_allow_private_addresses else ()


def of_settings(settings: Settings, url: str) -> Networks:
    """The private networks that an address of the settings may lie in: those that they name, and the address itself
    where it is one and no name."""
    with suppress(ValueError):
        return (*_named(settings.private_networks), *_named([str(urlsplit(url).hostname).partition("%")[0]]))
    return _named(settings.private_networks)


def _named(networks: list[str]) -> Networks:
    return tuple(map(ipaddress.ip_network, networks))


def resolve_targets(url: str, *, private: Networks) -> list[Target]:
    """Check every address of the host and pin each, in the order in which they are to be tried.

    Raises RefusedTarget for another scheme, an unknown host, or when any of its addresses is neither public nor in
    `private`: a name with one public and one private address is how rebinding starts.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as exc:  # of a version that did not look at it when it was entered
        raise RefusedTarget(say("delivery.not_an_address", url=url)) from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedTarget(say("delivery.not_an_address", url=url))
    addresses = _addresses(parts.hostname, port)
    for address in addresses:
        if not is_public(address) and not any(ipaddress.ip_address(address) in block for block in private):
            raise PrivateTarget(say("delivery.private_address", host=parts.hostname, address=address))
    return [_pinned(parts, address, port) for address in addresses[:MAX_TRIED]]


def client_to(url: str, settings: Settings, **values: Any) -> httpx.AsyncClient:
    """For an address of the settings. Its requests raise RefusedTarget for a host that must not be called.

    A proxy of the environment looks names up itself; where it may call is its operator's to say.
    """
    parts, proxies = urlsplit(url), getproxies()
    is_proxied = {parts.scheme, "all"} & proxies.keys() and not proxy_bypass(parts.hostname or "")
    return httpx.AsyncClient(transport=None if is_proxied else _Checked(of_settings(settings, url)), **values)


class _Checked(httpx.AsyncHTTPTransport):
    def __init__(self, private: Networks) -> None:
        super().__init__()
        self._private = private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        *others, last = await asyncio.to_thread(resolve_targets, str(request.url), private=self._private)
        for target in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await super().handle_async_request(target.instead_of(request))
        return await super().handle_async_request(last.instead_of(request))


def is_public(address: str) -> bool:
    """True for an address that anyone on the internet could reach.

    Allowed is what IANA gave out as global unicast, less every block of its special-purpose registries, whatever they
    say of it: the blocks that translate to another address (6to4, NAT64, Teredo, IPv4 inside IPv6) lead anywhere.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in GLOBAL_IPV6 and not any(ip in block for block in SPECIAL_IPV6)
    return not any(ip in block for block in SPECIAL_IPV4)


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        if isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN:
            raise RefusedTarget(say("delivery.no_dns", host=host)) from exc
        raise RefusedTarget(say("delivery.no_host", host=host)) from exc
    # An IPv6 link-local address carries its zone as `%eth0`.
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def _pinned(parts: SplitResult, address: str, port: int) -> Target:
    host = (parts.hostname or "").encode("idna").decode()  # as it was looked up: headers are ASCII
    return Target(
        url=urlunsplit((parts.scheme, f"{_literal(address)}:{port}", parts.path or "/", parts.query, "")),
        host_header=_literal(host) + (f":{parts.port}" if parts.port else ""),
        server_name=host,
    )


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host else host
