"""The pages that are open in browsers: when their session ends, they end.

What a page asks of the server is refused as soon as its session is closed (`Connection`); here the page itself is led
to signing in and what it holds on the server is dropped. A session may end elsewhere, by its time, in another process
or because its key was revoked, so all are looked at now and then.
"""

import asyncio
from urllib.parse import quote
from weakref import WeakKeyDictionary

from nicegui import Client, background_tasks
from starlette.requests import Request

from tunery.dashboard.connection import Connections, Failure, SessionEnded, ask
from tunery.dashboard.sessions import Sessions
from tunery.dashboard.visit import BASE

LOOK_EVERY_S = 20.0
GRACE_S = 2.0  # for the browser to hear where to go

_tokens: WeakKeyDictionary[Client, str] = WeakKeyDictionary()


def open_page(client: Client, token: str) -> None:
    """Says whose page `client` is. A page for everybody (signing in) is nobody's, whatever cookie it was asked with."""
    _tokens[client] = token


def end_pages(token: str) -> None:
    """Every open page of this session goes to signing in, once, and its state on the server is gone."""
    for client in _pages_of(token):
        del _tokens[client]
        url = client.request.url
        here = quote(url.path + (f"?{url.query}" if url.query else ""), safe="")
        client.run_javascript(f'window.location.href = "{BASE}/sign-in?reason=expired&next={here}"')
        client.page.reconnect_timeout = 0  # the framework forgets it as soon as the browser has gone there
        background_tasks.create(_drop(client))


async def watch(sessions: Sessions, connections: Connections) -> None:
    """Runs as long as the server: ends pages whose session or key is no more, reloads those whose rights changed."""
    rights: dict[str, object] = {}
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        open_now = {token: client.request for client, token in list(_tokens.items()) if client.has_socket_connection}
        rights = {token: found for token, found in rights.items() if token in open_now}
        for token, request in open_now.items():
            found = await ask(_rights(sessions, connections, token, request))
            if isinstance(found, Failure):
                if found.is_expired:  # else the server may be busy or going down: the next look tells
                    await sessions.close(token)
                    end_pages(token)
            elif rights.setdefault(token, found) != found:
                rights[token] = found
                for client in _pages_of(token):
                    client.run_javascript("window.location.reload()")


async def _rights(sessions: Sessions, connections: Connections, token: str, request: Request) -> object:
    """What the key may do now. Raises SessionEnded, and what the server answers when the key is no more."""
    session = await sessions.find(token)
    if session is None:
        raise SessionEnded
    who = await connections.for_session(request, session).get("/tunery/v1/session")
    return who["role"], who["is_owner"]


def _pages_of(token: str) -> list[Client]:
    """Those without a browser at the moment too: they may come back."""
    return [client for client, shown_to in list(_tokens.items()) if shown_to == token and not client.is_deleted]


async def _drop(client: Client) -> None:
    await asyncio.sleep(GRACE_S)
    if client.has_socket_connection:
        client.delete()
