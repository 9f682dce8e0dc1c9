import socket
from typing import Any

import pytest

from tunery.notify.targets import RefusedTarget, is_public, resolve_target


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
    ],
)
def test_address_inside_a_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", ["https://", "ftp://example.com/", "file:///etc/passwd", "//example.com", "x"])
def test_address_that_is_not_http_is_refused(url: str) -> None:
    with pytest.raises(RefusedTarget, match="http"):
        resolve_target(url, allow_private=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1"])
def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(RefusedTarget):
        resolve_target(f"http://{host}:9/", allow_private=False)


def test_private_address_is_used_when_allowed() -> None:
    target = resolve_target("http://localhost:8123/hook?a=1#part", allow_private=True)
    assert target.url in ("http://127.0.0.1:8123/hook?a=1", "http://[::1]:8123/hook?a=1")
    assert target.host_header == "localhost:8123"
    assert target.server_name == "localhost"


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine's resolver cannot be told to give two addresses, so this one test stands in for it.
    def two_addresses(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    with pytest.raises(RefusedTarget, match=r"10\.0\.0\.1"):
        resolve_target("https://rebind.example/", allow_private=False)


def test_unknown_host_is_refused_with_its_name() -> None:
    with pytest.raises(RefusedTarget, match=r"nowhere\.invalid"):
        resolve_target("https://nowhere.invalid/", allow_private=False)
