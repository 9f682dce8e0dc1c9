"""Passes requests on to OpenAI for names that a project has pointed at `openai:MODEL`, so that its answers are kept.

It has the same face as Engines. Nothing reaches it unless a project asked for it by such an alias and the installation
has an `upstream_api_key`.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tunery.domain.errors import InvalidRequest, RateLimited, TuneryError
from tunery.engines.http import Answer, detail_of, lost, unavailable
from tunery.engines.pool import Target
from tunery.settings import Settings
from tunery.texts import say

TIMEOUT = httpx.Timeout(600, connect=10)
OURS = ("cache_salt", "request_id")  # no parameters of OpenAI's


class Upstream:
    def __init__(self, settings: Settings) -> None:
        self._key = settings.upstream_api_key
        self._client = httpx.AsyncClient(base_url=settings.upstream_base_url.rstrip("/"), timeout=TIMEOUT)

    async def close(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def post(self, path: str, body: dict[str, Any], target: Target) -> AsyncGenerator[Answer]:
        """The upstream's answer, to be read in the block. Raises what it said, InvalidRequest without a key."""
        if self._key is None:
            raise InvalidRequest(
                say("error.upstream_not_configured", public_name=target.public_name),
                param="model",
            )
        sent = {name: value for name, value in body.items() if name not in OURS}
        request = self._client.build_request(
            "POST",
            path.removeprefix("/v1"),
            json={**sent, "model": target.upstream},
            headers={"authorization": f"Bearer {self._key.get_secret_value()}"},
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.ConnectError as exc:
            raise unavailable(say("error.upstream_unreachable")) from exc
        except httpx.HTTPError as exc:
            raise lost(exc) from exc
        try:
            if response.status_code >= 400:
                await response.aread()
                raise _upstream_error(response)
            yield Answer(response.aread, response.aiter_bytes)
        except httpx.HTTPError as exc:
            raise lost(exc) from exc
        finally:
            await response.aclose()


def _upstream_error(response: httpx.Response) -> TuneryError:
    """The upstream's own words and status. A bad key there is this server's fault, not the client's."""
    detail = detail_of(response.content)
    message = say("error.upstream", message=detail.get("message") or response.status_code)
    code = detail.get("code") if isinstance(detail.get("code"), str) else None
    if response.status_code in (401, 403):
        return unavailable(say("error.upstream_refused_key"))
    if response.status_code == 429:
        wait = response.headers.get("retry-after")
        return RateLimited(message, code=code, headers={"retry-after": wait} if wait else None)
    if response.status_code < 500:
        return InvalidRequest(message, param=detail.get("param"), code=code)
    return unavailable(message)
