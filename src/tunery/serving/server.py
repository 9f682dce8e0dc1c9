"""An engine's process: the engine, its HTTP server, and their end. The engine is ours or a vLLM's."""

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvicorn

from tunery import http_server, logs, tracing
from tunery.domain.errors import InvalidRequest
from tunery.serving.http.app import create_app
from tunery.serving.http.service import Service
from tunery.serving.requests import Backend
from tunery.serving.settings import ServerSettings

Settings = TypeVar("Settings", bound=ServerSettings)
Build = Callable[[Settings, asyncio.AbstractEventLoop], Awaitable[Service]]


def run(settings: Settings, build: "Build[Settings]") -> int:
    """The exit status. `build` reads what there is to read; the engine is not started yet. Raises SettingsError."""
    logs.configure(settings.log_format, logging.getLevelNamesMapping()[settings.log_level.upper()])
    tracing.configure("tunery-engine")
    # The engine's thread gives the interpreter up in every operation and wants it back at once.
    sys.setswitchinterval(0.00002)
    try:
        return asyncio.run(serve(settings, build))
    except InvalidRequest as exc:
        sys.stderr.write(f"{exc.message}\n")
        return 1


async def serve(settings: Settings, build: "Build[Settings]") -> int:
    """Until a signal or the engine's failure: then 1, so that whoever supervises the process starts it again."""
    listener = listen(settings.host, settings.port)
    service = await build(settings, asyncio.get_running_loop())
    service.engine.start()
    server = http_server.Server(
        http_server.configure(
            tracing.Traced(create_app(service)), keep_alive_s=settings.keep_alive_s, stop_within_s=settings.drain_s
        )
    )
    watch = asyncio.create_task(_watch(service.engine, server))
    announce = asyncio.create_task(_announce(server, settings.host, listener.getsockname()[1]))
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()
        announce.cancel()
        service.grammars.close()
        await asyncio.to_thread(service.engine.stop)
    return 1 if service.engine.failure is not None else 0


def listen(host: str, port: int) -> socket.socket:
    """A socket whose connections send each packet at once.

    asyncio asks for that on sockets that name their protocol, which those accepted here do not. Without it the second
    packet of an answer waits for the first one's acknowledgement, up to 40 ms.
    """
    listener = socket.create_server((host, port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _announce(server: uvicorn.Server, host: str, port: int) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    sys.stdout.write(f"ready http://{host}:{port}\n")
    sys.stdout.flush()


async def _watch(engine: Backend, server: uvicorn.Server) -> None:
    while engine.is_alive:
        await asyncio.sleep(0.2)
    server.should_exit = True
