"""How api and engine treat the connections that they take: uvicorn, with bounds on clients that send or read slowly.

A request has one window of 30 s for its head; its body has a window for every kibibyte. An idle connection is kept
for `keep_alive_s`. Whoever does not read an answer for a minute is cut off.
"""

import asyncio
import gc
import socket
from typing import Any

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tunery.domain.errors import InvalidRequest, TuneryError
from tunery.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
MAX_WEBSOCKET_MESSAGE_BYTES = 1024 * 1024  # as engine.io's own for what comes by polling
MIN_BODY_BYTES = 1024  # of one window; fewer is no progress
LINGER_S = 1.0


class BoundedConnection(HttpToolsProtocol):
    """One connection. uvicorn by itself bounds neither the size of a head nor the time of a half-sent request."""

    half_sent_s = 30.0
    unread_s = 60.0

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._window: asyncio.TimerHandle | None = None  # runs while a request is half sent
        self._unread: asyncio.TimerHandle | None = None  # runs while an answer waits for its reader
        self._in_head = True
        self._num_bytes = 0  # of the head, or of the body in this window
        self._is_over = False  # refused: what still comes is dropped

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._open_window()

    def connection_lost(self, exc: Exception | None) -> None:
        self._close_window()
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._window is None:  # the first bytes of the next request
            self._open_window()
        self._num_bytes += len(data)
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head and self._num_bytes > MAX_HEAD_BYTES:
            self._refuse(_error(f"The request's headers are longer than {MAX_HEAD_BYTES // 1024} KB.", 431))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._window is None:  # it came with the end of the one before
            self._num_bytes = 1
            self._open_window()

    def on_headers_complete(self) -> None:
        try:
            super().on_headers_complete()
        except (
            httptools.HttpParserInvalidURLError,
            UnicodeDecodeError,
        ):  # the parser took what the URL parser does not
            self._refuse(_error("The request's address is not a valid URL.", 400))
            return
        self._in_head, self._num_bytes = False, 0
        self._open_window()

    def on_message_complete(self) -> None:
        self._close_window()
        self._in_head, self._num_bytes = True, 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._close_window()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting()

    def _open_window(self) -> None:
        self._close_window()
        self._window = self.loop.call_later(self.half_sent_s, self._window_over)

    def _close_window(self) -> None:
        if self._window is not None:
            self._window.cancel()
            self._window = None

    def _window_over(self) -> None:
        """Goes on with a body that arrives, and with one that waits for us; ends the connection otherwise."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        is_ours = self.flow.read_paused
        if not self._in_head and not is_answered and (is_ours or self._num_bytes >= MIN_BODY_BYTES):
            self._num_bytes = 0
            self._open_window()
            return
        self._refuse(_error(f"The rest of the request did not come within {self.half_sent_s:.0f} seconds.", 408))

    def _refuse(self, error: TuneryError) -> None:
        """Close; with an answer where the request began and has none yet."""
        self._close_window()
        if self.transport.is_closing():
            return
        is_silent = self._in_head and self._num_bytes == 0  # nothing was asked
        is_earlier = self._in_head and self.cycle is not None and not self.cycle.response_complete
        is_begun = not self._in_head and self.cycle is not None and self.cycle.response_started
        if is_silent or is_earlier or is_begun:
            self.transport.close()
            return
        # Closed at once, what is still on its way would make the system drop the answer.
        self._is_over = True
        self.transport.write(_answer(error))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _wait_for_reader(self) -> None:
        self._stop_waiting()
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self.unread_s, self._cut_off, left)

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _cut_off(self, left_before: int) -> None:
        if self.transport.get_write_buffer_size() < left_before:
            self._wait_for_reader()
        else:
            self.transport.abort()


def _error(message: str, status: int) -> TuneryError:
    error = InvalidRequest(message)
    error.status = status
    return error


def _answer(error: TuneryError) -> bytes:
    body = orjson.dumps(error.body())
    head = f"HTTP/1.1 {error.status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body


class Server(uvicorn.Server):
    """What was loaded for the start stays until the end: the collector, which holds up every request while it looks at
    all there is, does not look at that again."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()


def configure(app: Any, *, keep_alive_s: int, stop_within_s: int, **values: Any) -> uvicorn.Config:
    """uvicorn's configuration of our servers; `values` are its own, such as host and port."""
    return uvicorn.Config(
        app,
        http=BoundedConnection,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=stop_within_s,
        ws_max_size=MAX_WEBSOCKET_MESSAGE_BYTES,
        proxy_headers=False,  # the api looks at them itself, from the proxies of its settings only
        server_header=False,
        access_log=False,  # the api's middleware logs each request, with its id
        log_config=None,  # the process has configured its log already
        log_level="warning",
        **values,
    )


def serve(app: Any, settings: Settings) -> None:
    """At the settings' address, until a signal ends it: then no connection is taken any more, and answers that run are
    finished for as long as `drain_s` says."""
    values: dict[str, Any] = {"keep_alive_s": settings.keep_alive_s, "host": settings.host, "port": settings.port}
    Server(configure(app, stop_within_s=settings.drain_s, **values)).run()
