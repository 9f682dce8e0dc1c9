"""HTTP to the engines, over connections that are kept.

aiohttp and not httpx, as elsewhere: its parser is in C, and httpx took a millisecond of every completion.
"""

import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from pydantic import SecretStr

from tunery import tracing
from tunery.domain.errors import Unavailable
from tunery.domain.json_body import as_object
from tunery.texts import say

log = logging.getLogger(__name__)

# Tokens may take long to come, a connection may not. What a client does not wait for is ended by its going away: a
# limit here would end it uncounted.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=None)
# uvicorn, which our engine runs on, closes a connection that was idle for five seconds. A request that is sent
# at that very moment is lost, so ours are closed earlier.
KEEP_ALIVE_S = 4
RETRY_AFTER_S = "2"
LARGE = 1_000_000  # bytes
CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


@dataclass(frozen=True)
class Answer:
    """What an engine, or the upstream that a name is passed on to, gives for a request that it took.

    Its status is 200, its content is not yet read: all of it by `read`, or piece by piece by `chunks`.
    """

    read: Callable[[], Awaitable[bytes]]
    chunks: Callable[[], AsyncIterator[bytes]]


class Unreachable(Exception):
    """The server took no request, or went away before the head of its answer: another one may be asked."""


class EngineLost(Unavailable):
    """It went away, or was silent for too long, while it worked on a request."""


def unavailable(message: str) -> Unavailable:
    return Unavailable(message, code="server_is_overloaded", headers={"retry-after": RETRY_AFTER_S})


def lost(exc: BaseException) -> EngineLost:
    log.warning("the engine was lost in the middle of a request: %r", exc)
    return EngineLost(say("error.engine_lost"), code="server_is_overloaded", headers={"retry-after": RETRY_AFTER_S})


DOWN = (Unreachable, EngineLost)


class EngineHttp:
    def __init__(self, key: SecretStr | None) -> None:
        self._headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
        self._opened: aiohttp.ClientSession | None = None

    def _session(self) -> aiohttp.ClientSession:
        """Made at its first use, since it belongs to the event loop that runs then."""
        if self._opened is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            jar = aiohttp.DummyCookieJar()
            self._opened = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=jar)
        return self._opened

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def start(self, url: str, content: bytes) -> aiohttp.ClientResponse:
        """POST, until the head of the answer is there; whoever called closes it. Raises Unreachable and EngineLost."""
        headers = {"content-type": "application/json", **self._headers, **tracing.outgoing_headers()}
        with _in_our_words():
            try:
                return await self._session().post(url, data=_payload(content), headers=headers)
            except aiohttp.ClientConnectorError:
                raise
            except CLOSED:  # a kept connection that the server has ended may show it only when it is used
                return await self._session().post(url, data=_payload(content), headers=headers)

    async def get(self, url: str, *, timeout_s: float) -> tuple[int, bytes]:
        """Status and content. Raises Unreachable, also when no answer comes in time: an engine that loads is silent."""
        with _in_our_words(has_begun=False):
            return await self._whole("GET", url, timeout_s)

    async def post(self, url: str, body: dict[str, Any], *, timeout_s: float) -> tuple[int, bytes]:
        """As `get`. Raises Unreachable and EngineLost."""
        with _in_our_words():
            return await self._whole("POST", url, timeout_s, json=body)

    async def _whole(self, method: str, url: str, timeout_s: float, **values: Any) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        headers = {**self._headers, **tracing.outgoing_headers()}
        async with self._session().request(method, url, timeout=timeout, headers=headers, **values) as response:
            return response.status, await response.read()


def _payload(content: bytes) -> bytes | io.BytesIO:
    """A large one goes out piece by piece, or all else would wait for it."""
    return content if len(content) < LARGE else io.BytesIO(content)


@contextmanager
def until_the_end() -> Generator[None]:
    """Around the reading of an answer whose head has come: what goes wrong in it is EngineLost."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise lost(exc) from exc


@contextmanager
def _in_our_words(*, has_begun: bool = True) -> Generator[None]:
    """`has_begun`: an engine that does not answer in time may be working on what it was sent."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as exc:
        raise Unreachable(repr(exc)) from exc
    except TimeoutError as exc:
        raise (lost(exc) if has_begun else Unreachable(repr(exc))) from exc
    except aiohttp.ClientError as exc:
        raise Unreachable(repr(exc)) from exc


def detail_of(content: bytes) -> dict[str, Any]:
    """The object that says what went wrong, as OpenAI and vLLM nest it; empty when the content is no JSON."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    error = as_object(body).get("error", as_object(body))
    return as_object(error) if isinstance(error, dict) else {"message": error}
