"""Where a webhook may go. Resolves the host once and hands out the address, so that no second look-up can differ."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

from tunery.texts import say

NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedTarget(Exception):
    """The address must not be called; the message says why."""


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
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedTarget(say("delivery.not_an_address", url=url))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = _addresses(parts.hostname, port)
    if not allow_private:
        for address in addresses:
            if not is_public(address):
                raise RefusedTarget(say("delivery.private_address", host=parts.hostname, address=address))
    return _pinned(parts, addresses[0], port)


def is_public(address: str) -> bool:
    """True for an address anyone on the internet could reach. Looks through IPv4 inside IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip in NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise RefusedTarget(say("delivery.no_host", host=host, reason=exc)) from exc
    # An IPv6 link-local address carries its zone as `%eth0`.
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _pinned(parts: SplitResult, address: str, port: int) -> Target:
    literal = f"[{address}]" if ":" in address else address
    host = parts.hostname or ""
    return Target(
        url=urlunsplit((parts.scheme, f"{literal}:{port}", parts.path or "/", parts.query, "")),
        host_header=parts.netloc.rpartition("@")[2],
        server_name=host,
    )
