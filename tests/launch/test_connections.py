"""What a client that sends or reads slowly can hold: a real uvicorn with our connections, and sockets."""

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tunery import http_server

FLOOD = 64 * 1024 * 1024
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


class Impatient(http_server.BoundedConnection):
    half_sent_s = 0.4
    unread_s = 0.4


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads a body whole and tells its length; `/early` answers first; `/late` takes its time; `/flood` sends on."""
    if scope["type"] != "http":
        return
    length = 0
    if scope["path"] == "/late":
        await asyncio.sleep(1.2)
    while scope["path"] != "/early":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(FLOOD // 65536 if scope["path"] == "/flood" else 0):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": str(length).encode()})


@contextmanager
def serving(connection: type[http_server.BoundedConnection], **values: Any) -> Iterator[tuple[str, int]]:
    config = http_server.configure(
        app, keep_alive_s=values.get("keep_alive_s", 75), stop_within_s=1, host="127.0.0.1", port=0
    )
    config.http = connection
    server = http_server.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not (server.started and gc.get_freeze_count()):
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join(10)
    gc.unfreeze()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with serving(Impatient) as found:
        yield found


def test_what_was_there_at_the_start_is_not_looked_through_again() -> None:
    with serving(Impatient):
        assert gc.get_freeze_count() > 10_000
        made_after: list[Any] = []
        made_after.append(made_after)
        assert any(each is made_after for each in gc.get_objects())


def exchange(address: tuple[str, int], *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Everything that comes back until the server closes."""
    with socket.create_connection(address, timeout=20) as client:
        for piece in pieces:
            try:
                client.sendall(piece)
            except OSError:
                break
            time.sleep(pause_s)
        return rest_of(client)


def rest_of(client: socket.socket) -> bytes:
    answer = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 20):
            answer += data
    return bytes(answer)


def trickle(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


@pytest.mark.parametrize(
    ("pieces", "pause_s"),
    [
        ([b"POST / HT"], 0),
        ([HEAD], 0),
        (trickle(HEAD), 0.1),
        ([HEAD + b"content-length: 10\r\n\r\nabc"], 0),
        ([HEAD + b"content-length: 900\r\n\r\n", *[b"x"] * 20], 0.1),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 20], 0.1),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"], 0),
    ],
)
def test_half_sent_request_is_ended_with_408(address: tuple[str, int], pieces: list[bytes], pause_s: float) -> None:
    answer = exchange(address, *pieces, pause_s=pause_s)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"invalid_request_error"' in answer


def test_connection_that_never_asks_is_closed_without_a_word(address: tuple[str, int]) -> None:
    assert exchange(address) == b""


def test_slow_body_that_goes_on_is_taken(address: tuple[str, int]) -> None:
    pieces = [b"x" * 2048] * 10
    answer = exchange(address, HEAD + b"connection: close\r\ncontent-length: 20480\r\n\r\n", *pieces, pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 200") and b"20480" in answer


def test_body_that_waits_for_the_server_is_not_late(address: tuple[str, int]) -> None:
    head = b"POST /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n"
    answer = exchange(address, head, b"x" * 1_000_000)
    assert answer.startswith(b"HTTP/1.1 200") and b"1000000" in answer


def test_sender_who_goes_on_after_the_answer_is_cut_off(address: tuple[str, int]) -> None:
    head = b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n"
    answer = exchange(address, head, *[b"x" * 2048] * 20, pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("header", [b"x-a: " + b"x" * 100_000 + b"\r\n", b"x-a: b\r\n" * 20_000])
def test_endless_head_is_431(address: tuple[str, int], header: bytes) -> None:
    assert exchange(address, HEAD + header, b"\r\n").startswith(b"HTTP/1.1 431 ")


def test_second_request_of_a_kept_connection_has_its_own_window(address: tuple[str, int]) -> None:
    answer = exchange(address, HEAD + b"content-length: 2\r\n\r\nok", HEAD, pause_s=0.6)
    assert answer.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408 " in answer


@pytest.mark.parametrize("half", [b"P", b"POST / HT", HEAD, HEAD + b"content-length: 10\r\n\r\nabc"])
def test_half_a_request_that_comes_with_the_one_before_ends_too(address: tuple[str, int], half: bytes) -> None:
    answer = exchange(address, HEAD + b"content-length: 2\r\n\r\nok" + half)
    assert answer.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408 " in answer


def test_requests_in_one_packet_are_all_answered(address: tuple[str, int]) -> None:
    whole = HEAD + b"content-length: 2\r\n\r\nok"
    assert exchange(address, whole * 3 + whole.replace(b"host: x", b"host: x\r\nconnection: close")).count(b" 200") == 4


def test_idle_connection_is_kept_as_long_as_it_was_told() -> None:
    whole = HEAD + b"content-length: 2\r\n\r\nok"
    with serving(Impatient, keep_alive_s=2) as found:
        assert exchange(found, whole, whole, pause_s=1.2).count(b"HTTP/1.1 200") == 2
        assert exchange(found, whole, whole, pause_s=2.6).count(b"HTTP/1.1 200") == 1


def test_reader_who_stops_is_cut_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(2)
        assert len(rest_of(client)) < FLOOD
