"""The client of whoever starts engines on this machine (`launch.engines`): asks for a base until it is warm."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import httpx
import orjson

from tunery.domain.errors import NotFound, Unavailable
from tunery.engines.http import DOWN, EngineHttp, unavailable
from tunery.settings import Settings
from tunery.texts import say

State = Literal["cold", "waiting", "fetching", "starting", "warm", "leaving", "failed"]
STATES: tuple[State, ...] = get_args(State)

ASK_EVERY_S = 0.2
ASK_TIMEOUT_S = 5.0
START_S = 900.0  # at most, with all compiling
COLD_RETRY_AFTER_S = 20  # about what a start takes


@dataclass(frozen=True)
class Hosted:
    source: str
    state: State
    url: str
    pinned: bool
    needed_bytes: int
    problem: str
    is_over_budget: bool


class EngineHostClient:
    def __init__(self, settings: Settings, http: EngineHttp) -> None:
        self._url, self._http = settings.engine_host_url, http
        self._waits = settings.cold_start == "wait"

    async def warm(self, source: str) -> str:
        """The address of the base's engine, once it answers. Raises Unavailable with Retry-After where it does not wait
        for that, or where the engine does not start, and NotFound for a base that is none here or too large."""
        while True:
            hosted = await self._want(source)
            if hosted.state == "warm":
                return hosted.url
            if hosted.is_over_budget:
                raise NotFound(
                    say("error.base_over_budget", source=source, reason=hosted.problem),
                    param="model",
                    code="model_not_found",
                )
            if hosted.state == "failed":
                raise unavailable(say("error.base_does_not_start", source=source))
            if not self._waits:
                headers = {"retry-after": str(COLD_RETRY_AFTER_S)}
                raise Unavailable(say("error.base_cold", source=source), code="model_cold", headers=headers)
            await asyncio.sleep(ASK_EVERY_S)

    async def _want(self, source: str) -> Hosted:
        try:
            status, content = await self._http.post(f"{self._url}/engines", {"source": source}, timeout_s=ASK_TIMEOUT_S)
        except DOWN as exc:
            raise unavailable(say("error.engine_starting")) from exc
        if status == 404:
            raise NotFound(say("error.base_unknown", source=source), param="model", code="model_not_found")
        if status != 200:
            raise unavailable(say("error.engine_starting"))
        return Hosted(**orjson.loads(content))

    async def is_up(self) -> bool:
        """Whether requests are answered: an engine is warm, or one makes room for another."""
        return bool((await self._describe())["is_up"])

    async def list(self) -> list[Hosted]:
        """Of every base of the catalog; nothing when the host does not answer."""
        return [Hosted(**row) for row in (await self._describe())["data"]]

    async def _describe(self) -> dict[str, Any]:
        try:
            status, content = await self._http.get(f"{self._url}/engines", timeout_s=ASK_TIMEOUT_S)
        except DOWN:
            status, content = 503, b""
        return orjson.loads(content) if status == 200 else {"is_up": False, "data": []}


def starter(settings: Settings, source: str, *, goes_on: Callable[[], bool]) -> Callable[[], str | None] | None:
    """What has the base's engine started and waits for its address, for the worker, without an event loop and whatever
    `cold_start` says. None where nobody starts engines."""
    return partial(_wait_until_warm, settings, source, goes_on) if settings.engine_host_url else None


def _wait_until_warm(settings: Settings, source: str, goes_on: Callable[[], bool]) -> str | None:
    """None when it does not come to it, `goes_on` says no, or it takes too long."""
    key = settings.engine_api_key
    headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and goes_on():
        try:
            url = f"{settings.engine_host_url}/engines"
            answer = httpx.post(url, json={"source": source}, headers=headers, timeout=ASK_TIMEOUT_S)
            found: dict[str, Any] = answer.json() if answer.status_code == 200 else {"state": "failed"}
        except (httpx.HTTPError, ValueError):
            found = {"state": "away"}  # the server starts again
        if found["state"] == "warm":
            return found["url"]
        if found["state"] == "failed":
            return None
        time.sleep(ASK_EVERY_S)
    return None
