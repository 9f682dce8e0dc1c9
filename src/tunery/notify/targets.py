"""Where a webhook may go. Resolves the host once and hands out the address, so that no second look-up can differ."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

from tunery.texts import say

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
    """Not while the setting that allows private addresses is off, whatever the server there may be."""


@dataclass(frozen=True)
class Target:
    url: str  # the host replaced by the address that was checked
    host_header: str
    server_name: str  # the name that the TLS certificate must carry


def resolve_target(url: str, *, allow_private: bool) -> Target:
    """Check every address of the host and pin the first.

    Raises RefusedTarget for another scheme, an unknown host, or (unless allow_private) when any of its
    addresses is not public: a name with one public and one private address is how rebinding starts.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as exc:  # of a version that did not look at it when it was entered
        raise RefusedTarget(say("delivery.not_an_address", url=url)) from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedTarget(say("delivery.not_an_address", url=url))
    addresses = _addresses(parts.hostname, port)
    if not allow_private:
        for address in addresses:
            if not is_public(address):
                raise PrivateTarget(say("delivery.private_address", host=parts.hostname, address=address))
    return _pinned(parts, addresses[0], port)


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
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _pinned(parts: SplitResult, address: str, port: int) -> Target:
    host = (parts.hostname or "").encode("idna").decode()  # as it was looked up: headers are ASCII
    return Target(
        url=urlunsplit((parts.scheme, f"{_literal(address)}:{port}", parts.path or "/", parts.query, "")),
        host_header=_literal(host) + (f":{parts.port}" if parts.port else ""),
        server_name=host,
    )


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host else host
