"""Asks servers elsewhere that speak OpenAI's dialect, and is the only one to: OpenAI, for names that a project has
pointed at `openai:MODEL`, and the endpoint of judges that this server lacks.

Nothing reaches OpenAI unless a project asked for it by such an alias and the installation has an `upstream_api_key`.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import SecretStr

from tunery.addresses import RefusedTarget, client_to
from tunery.domain.errors import InvalidRequest, RateLimited, TuneryError
from tunery.engines.http import Answer, detail_of, lost, unavailable
from tunery.engines.pool import Target
from tunery.settings import Settings
from tunery.texts import say

TIMEOUT = httpx.Timeout(600, connect=10)
OURS = ("cache_salt", "request_id", "priority")  # no parameters of OpenAI's


class Upstream:
    """`key_setting`: where `key` stands in the settings, for the error of a key that is refused."""

    def __init__(self, settings: Settings, base_url: str, key: SecretStr | None, *, key_setting: str) -> None:
        self._has_key = key is not None
        self._key_setting = key_setting
        headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
        url = base_url.rstrip("/")
        self._client = client_to(url, settings, base_url=url, headers=headers, timeout=TIMEOUT)

    async def close(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def post(self, path: str, body: dict[str, Any], target: Target) -> AsyncGenerator[Answer]:
        """As Engines.post: the answer of the model that `target` names there. Raises InvalidRequest without a key,
        otherwise as `ask`."""
        if not self._has_key:
            raise InvalidRequest(
                say("error.upstream_not_configured", public_name=target.public_name),
                param="model",
            )
        sent = {name: value for name, value in body.items() if name not in OURS}
        async with self.ask(path, {**sent, "model": target.upstream}) as answer:
            yield answer

    @asynccontextmanager
    async def ask(self, path: str, body: dict[str, Any]) -> AsyncGenerator[Answer]:
        """The answer, to be read in the block. It is asked once: what it computes, it charges for.

        Raises what it said as InvalidRequest or RateLimited, Unavailable when it cannot be reached, refuses the key or
        fails, EngineLost when it goes away meanwhile.
        """
        try:
            async with self._client.stream("POST", path.removeprefix("/v1"), json=body) as response:
                if response.status_code >= 300:  # a redirect is not followed
                    await response.aread()
                    raise self._error(response)
                yield Answer(response.aread, response.aiter_bytes)
        except RefusedTarget as exc:
            raise unavailable(say("error.upstream_address", reason=exc.args[0])) from exc
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise unavailable(say("error.upstream_unreachable")) from exc
        except httpx.HTTPError as exc:
            raise lost(exc) from exc

    def _error(self, response: httpx.Response) -> TuneryError:
        """The upstream's own words and status. A bad key there is this server's fault, not the client's."""
        detail = detail_of(response.content)
        message = say("error.upstream", message=detail.get("message") or response.status_code)
        code = detail.get("code") if isinstance(detail.get("code"), str) else None
        if response.status_code in (401, 403):
            return unavailable(say("error.upstream_refused_key", setting=self._key_setting))
        if response.status_code == 429:
            wait = response.headers.get("retry-after")
            return RateLimited(message, code=code, headers={"retry-after": wait} if wait else None)
        if 400 <= response.status_code < 500:
            return InvalidRequest(message, param=detail.get("param"), code=code)
        return unavailable(message)
