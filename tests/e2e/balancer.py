"""A load balancer as small as can be: one connection of a client after the other to the next server that takes it."""

import socket
import threading
from contextlib import suppress
from itertools import count
from typing import Self
from urllib.parse import urlsplit

PIECE = 65_536


class Balancer:
    """By connections, not by requests: what is sent is passed on unread. `is_loyal`: to the first server while that is
    up, as one that keeps a visitor's open pages where they are."""

    def __init__(self, urls: list[str], *, is_loyal: bool = False) -> None:
        self._is_loyal = is_loyal
        self._targets = [(str(urlsplit(url).hostname), int(urlsplit(url).port or 80)) for url in urls]
        self._turns = count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        turn = 0 if self._is_loyal else next(self._turns)
        for number in range(len(self._targets)):
            try:
                server = socket.create_connection(self._targets[(turn + number) % len(self._targets)], timeout=5)
            except OSError:
                continue
            server.settimeout(None)
            with client, server:
                back = threading.Thread(target=_pass_on, args=(client, server), daemon=True)
                back.start()
                _pass_on(server, client)
                back.join()
            return
        client.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Until one of the two has ended; then the other is told."""
    with suppress(OSError):
        while piece := source.recv(PIECE):
            target.sendall(piece)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
