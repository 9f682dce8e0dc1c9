"""The dashboard's only way to the server: its public HTTP API, through the official client, with the visitor's key."""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, AsyncStream, OpenAI
from starlette.requests import HTTPConnection

from tunery.dashboard.sessions import Session, Sessions
from tunery.domain.errors import text_of
from tunery.settings import Settings
from tunery.texts import Translator

TIMEOUT_S = 120.0
MAX_CONNECTIONS = 64
NO_HEADERS: Mapping[str, str] = {}


log = logging.getLogger(__name__)
T = TypeVar("T")
Owner = tuple[str, str | None]  # key and project


class SessionEnded(Exception):
    """The visitor signed out, here or in another tab, or the session's time is up."""


async def _always() -> bool:
    return True


class _Client(AsyncOpenAI):
    """Asks before each request whether it may still be made: a page outlives its session."""

    is_open: Callable[[], Awaitable[bool]]

    async def _prepare_options(self, options: Any) -> Any:
        if not await self.is_open():
            raise SessionEnded
        return await super()._prepare_options(options)


class Connection:
    """`client` for what OpenAI's API has; `get`, `post` and `delete` for our own endpoints under `/tunery/v1`.

    Every request raises SessionEnded once `is_open` says no.
    """

    def __init__(
        self,
        address: str,
        key: str,
        project: str = "",
        is_open: Callable[[], Awaitable[bool]] = _always,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self.address = address
        self.client = _Client(
            api_key=key,
            admin_api_key=key,
            base_url=f"{address}/v1",
            timeout=TIMEOUT_S,
            max_retries=1,
        )
        # Set after, since the client takes all three from the environment, where an old account's may still stand.
        self.client.organization, self.client.project = None, project or None
        self.client._custom_headers = headers
        self.client.is_open = is_open

    async def is_open(self) -> bool:
        return await self.client.is_open()

    def for_background(self) -> "Connection":
        """For work that a visitor started and that goes on when the page, or the session, is no more."""
        client = self.client
        return Connection(self.address, client.api_key, client.project or "", headers=client._custom_headers)

    def for_threads(self) -> OpenAI:
        """The same for code that waits for its answers: in a thread, never in the event loop."""
        known = self.client
        made = OpenAI(
            api_key=known.api_key,
            admin_api_key=known.api_key,
            base_url=known.base_url,
            timeout=TIMEOUT_S,
            max_retries=1,
        )
        made.organization, made.project = None, known.project
        made._custom_headers = known._custom_headers
        return made

    @property
    def owner(self) -> Owner:
        """To whom belongs what is started here."""
        return self.client.api_key, self.client.project

    async def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return await self.client.get(self._url(path), cast_to=object, options={"params": given})

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return await self.client.post(self._url(path), cast_to=object, body=dict(body or {}))

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncStream[Any]:
        """The answer of an endpoint that tells how far it is: its server-sent events, to be read with `async for`."""
        return await self.client.post(
            self._url(path), cast_to=object, body=dict(body), stream=True, stream_cls=AsyncStream[Any]
        )

    async def delete(self, path: str) -> Any:
        return await self.client.delete(self._url(path), cast_to=object)

    def _url(self, path: str) -> str:
        return f"{self.address}{path}"


class Connections:
    """Keeps the latest clients: making one costs tens of milliseconds (it builds a TLS context)."""

    def __init__(self, settings: Settings, sessions: Sessions, headers_for: Callable[[str], Mapping[str, str]]) -> None:
        """`headers_for`: what tells the api for which address a request is made."""
        self.settings, self.sessions, self._headers_for = settings, sessions, headers_for
        self._kept: OrderedDict[tuple[str, str, str, str], Connection] = OrderedDict()

    def for_session(self, request: HTTPConnection, session: Session) -> Connection:
        wanted = (self.address(request), session.token, session.project, visitor_address(request))
        connection = self._kept.pop(wanted, None) or self._connect(request, session)
        self._kept[wanted] = connection
        while len(self._kept) > MAX_CONNECTIONS:
            self._kept.popitem(last=False)
        return connection

    def for_key(self, request: HTTPConnection, key: str) -> Connection:
        """For a visitor who is not signed in."""
        return Connection(self.address(request), key, headers=self._headers_for(visitor_address(request)))

    def _connect(self, request: HTTPConnection, session: Session) -> Connection:
        token, headers = session.token, self._headers_for(visitor_address(request))

        async def is_open() -> bool:
            return await self.sessions.find(token) is not None

        return Connection(self.address(request), session.key, session.project, is_open, headers)

    def address(self, request: HTTPConnection) -> str:
        """This server, by the socket that took the request: the port may have been chosen by the system, and the Host
        header is the visitor's to write."""
        host, port = request.scope.get("server") or (self.settings.host, self.settings.port)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def visitor_address(request: HTTPConnection) -> str:
    """The browser's, or "" where the server does not know it: a socket of the file system."""
    return request.client.host if request.client else ""


@dataclass(frozen=True)
class Failure:
    """What came in place of an answer."""

    error: Exception

    @property
    def is_expired(self) -> bool:
        """The session has ended, or its key opens nothing any more: revoked, or expired since the visitor signed in."""
        return isinstance(self.error, SessionEnded) or self.status == 401

    @property
    def status(self) -> int:
        """HTTP's; 0 where nothing answered."""
        return self.error.status_code if isinstance(self.error, APIStatusError) else 0

    def message(self, t: Translator) -> str:
        return explain(self.error, t)


async def ask(request: Awaitable[T]) -> T | Failure:
    """What the server answers, or why it does not. A fault of ours in between is a failure too, and in the log: the
    page that asked lives on."""
    try:
        return await request
    except (APIError, SessionEnded) as error:
        return Failure(error)
    except Exception as error:
        log.exception("the dashboard failed")
        return Failure(error)


def explain(error: Exception, t: Translator) -> str:
    """A sentence for people: the server's own words where it has any."""
    if isinstance(error, SessionEnded):
        return t("error.expired")
    if isinstance(error, APITimeoutError):
        return t("error.timeout")
    if isinstance(error, APIConnectionError):
        return t("error.unreachable")
    if isinstance(error, APIStatusError):
        return _status_message(error, t)
    if isinstance(error, APIError):  # inside a stream that had begun
        body = error.body if isinstance(error.body, dict) else {}
        return _worded(error.message, body.get("text"), t)
    return t("error.unexpected")


def _status_message(error: APIStatusError, t: Translator) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or "")
    message = _worded(message, text_of(error.response.headers), t) if message else ""
    if error.status_code == 503:
        return t("error.unavailable", message=message)
    if error.status_code == 403:
        return t("error.forbidden", message=message)
    return message or t("error.status", status=error.status_code)


def _worded(message: str, known: Any, t: Translator) -> str:
    """In the reader's language; what comes from elsewhere (a model's server, a proxy) stands in a frame as it is."""
    return t.reword(message, known) if known else t("error.foreign", message=message)
