"""The engine's real HTTP server, in a thread of the test; under `make vllm`, before a vLLM."""

import asyncio
import socket
import threading
from dataclasses import fields
from typing import Self

import uvicorn

from tests import vllm_process
from tunery.serving.build import build_service
from tunery.serving.http.app import create_app
from tunery.serving.http.service import Service
from tunery.serving.settings import EngineSettings, ServerSettings
from tunery.serving.vllm import build as vllm
from tunery.serving.vllm.settings import VllmSettings


class EngineServer:
    def __init__(self, settings: EngineSettings, port: int = 0) -> None:
        self._settings = settings
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.service: Service
        self._server: uvicorn.Server
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self.service = await self._build(asyncio.get_running_loop())
        self.service.engine.start()
        config = uvicorn.Config(create_app(self.service), log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._is_up.set()
        await self._server.serve(sockets=[self._socket])
        await asyncio.to_thread(self.service.engine.stop)

    async def _build(self, loop: asyncio.AbstractEventLoop) -> Service:
        if not vllm_process.PYTHON:
            return build_service(self._settings, loop)
        shared = {field.name: getattr(self._settings, field.name) for field in fields(ServerSettings)}
        url = await asyncio.to_thread(vllm_process.vllm_url, self._settings.model_dir)
        return await vllm.build_service(VllmSettings(**shared, url=url), loop)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(300), "The engine did not start; its thread says why."
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Idempotent."""
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()
