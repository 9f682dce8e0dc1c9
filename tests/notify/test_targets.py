import socket
from contextlib import nullcontext
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tunery.addresses import RefusedTarget, is_public, of_settings, of_webhooks, resolve_targets
from tunery.settings import Settings

PRIVATE = (ip_network("0.0.0.0/0"), ip_network("::/0"))

# One address or more of every entry of IANA's registries of special-purpose addresses.
SPECIAL = """
0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.127.255.255 127.0.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1
192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.1.1 192.175.48.1
198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::7f00:1 ::8.8.8.8 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b::808:808
64:ff9b:1::7f00:1 64:ff9b:1::808:808 100::1 100:0:0:1::1 2001::1 2001:0:4136:e378::1 2001:1::1 2001:1::2 2001:1::3
2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1
2620:4f:8000::1 3fff::1 5f00::1 fc00::1 fd12::1 fe80::1 fec0::1 ff02::1 ff0e::1 4000::1
"""


@pytest.mark.parametrize("address", SPECIAL.split())
def test_a_special_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.1",
        ),
        *("2606:4700::1111", "2001:200::1", "2001:4860:4860::8888", "2a00:1450::1", "2620:0:ccc::2"),
    ],
)
def test_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", ["https://", "ftp://example.com/", "file:///etc/passwd", "//example.com", "x",
                                 "http://[", "http://a:99999/", "http://a:x/"])  # fmt: skip
def test_address_that_is_not_http_is_refused(url: str) -> None:
    with pytest.raises(RefusedTarget, match="http"):
        resolve_targets(url, private=PRIVATE)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "localhost.", "[::1]", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "0"),
        *(
            "user:word@127.0.0.1",
            "8.8.8.8@127.0.0.1",
            "[::ffff:127.0.0.1]",
            "[fe80::1%25lo]",
            "[fe80::1%lo]",
            "１２７.0.0.1",
        ),
    ],
)
def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(RefusedTarget):
        resolve_targets(f"http://{host}:9/", private=())


def test_private_address_is_used_when_allowed() -> None:
    target, *_ = resolve_targets("http://localhost:8123/hook?a=1#part", private=PRIVATE)
    assert target.url in ("http://127.0.0.1:8123/hook?a=1", "http://[::1]:8123/hook?a=1")
    assert target.host_header == "localhost:8123"
    assert target.server_name == "localhost"


@pytest.mark.parametrize(
    ("host", "header"),
    [("ｌocalhost", "localhost"), ("LOCALHOST", "localhost"), ("１２７.0.0.1", "127.0.0.1"),
     ("127。0。0。1", "127.0.0.1"),
     ("user:pässword@localhost", "localhost"), ("[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]")],
)  # fmt: skip
@pytest.mark.parametrize("port", ["", ":81"])
def test_a_name_in_any_script_becomes_headers_in_ascii(host: str, header: str, port: str) -> None:
    target, *_ = resolve_targets(f"http://{host}{port}/", private=PRIVATE)
    assert target.host_header == f"{header}{port}" and target.host_header.isascii()
    assert target.server_name == header.strip("[]")


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine's resolver cannot be told to give two addresses, so this one test stands in for it.
    def two_addresses(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    with pytest.raises(RefusedTarget, match=r"10\.0\.0\.1"):
        resolve_targets("https://rebind.example/", private=())


def test_unknown_host_is_refused_with_its_name() -> None:
    with pytest.raises(RefusedTarget, match=r"nowhere\.invalid"):
        resolve_targets("https://nowhere.invalid/", private=())


@pytest.mark.parametrize("address", SPECIAL.split())
def test_what_is_not_public_is_refused_to_a_name_of_the_settings_too(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """But for the networks that they name. What a literal address leads to is its writer's to know."""
    url, literal = "http://judge.example:80/v1", f"http://{f'[{address}]' if ':' in address else address}:80/v1"
    found = [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    for settings in (Settings(), Settings(private_networks=[])):
        is_named = any(ip_address(address) in ip_network(each) for each in settings.private_networks)
        with nullcontext() if is_named else pytest.raises(RefusedTarget, match="private_networks"):
            resolve_targets(url, private=of_settings(settings, url))
        resolve_targets(literal, private=of_settings(settings, literal))
        for webhook in (url, literal):
            with pytest.raises(RefusedTarget, match="private_networks"):
                resolve_targets(webhook, private=of_webhooks(settings))
