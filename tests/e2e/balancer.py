"""A load balancer as small as can be: one connection of a client after the other to the next server that takes it."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
        self._asking: set[tuple[int, socket.socket]] = set()  # port of the server, client
        self._turns = count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def num_asking(self, port: int) -> int:
        """Clients that have sent something to the server with this port and have heard nothing since."""
        return sum(each == port for each, _ in [*self._asking])

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
            target = self._targets[(turn + number) % len(self._targets)]
            try:
                server = socket.create_connection(target, timeout=5)
            except OSError:
                continue
            server.settimeout(None)
            with client, server:
                self._join(client, server, target[1])
            return
        client.close()

    def _join(self, client: socket.socket, server: socket.socket, port: int) -> None:
        asking = port, client
        ask, heard = partial(self._asking.add, asking), partial(self._asking.discard, asking)
        back = threading.Thread(target=_pass_on, args=(client, server, ask), daemon=True)
        back.start()
        _pass_on(server, client, heard)
        back.join()
        heard()


def _pass_on(source: socket.socket, target: socket.socket, note: Callable[[], None]) -> None:
    """Until one of the two has ended; then the other is told."""
    with suppress(OSError):
        while piece := source.recv(PIECE):
            note()
            target.sendall(piece)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
