"""A model's public name → the weights that answer to it, and the engines that have them, one or several: ours, or our
HTTP face before a vLLM. Of vLLM itself, and others in its dialect, embeddings alone are asked.

`Engines` knows which server has which base, loads an adapter where a request needs it, and turns to the next server
when one is away. An engine that was restarted has forgotten its adapters: the first request to meet that loads them
again.
"""

import asyncio
import hashlib
import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import aiohttp
import orjson
from sqlalchemy import Connection

from tunery import atomic
from tunery.domain.errors import InvalidRequest, NotFound, ServerFault, TuneryError, Unavailable, no_such_model, text_of
from tunery.domain.models import FineTunedModel
from tunery.engines.host import EngineHostClient, State
from tunery.engines.http import (
    DOWN,
    RETRY_AFTER_S,
    Answer,
    EngineHttp,
    Unreachable,
    detail_of,
    unavailable,
    until_the_end,
)
from tunery.models.catalog import Catalog, CatalogModel
from tunery.models.sources import cache as sources
from tunery.settings import Settings
from tunery.store import models
from tunery.store.blobs import Blobs
from tunery.texts import Reference, say

log = logging.getLogger(__name__)

UPSTREAM = "openai:"  # what an alias points at to have a name passed on
LOAD_TIMEOUT_S = 60.0
DISCOVER_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 5.0
HOST_TRIES = 3
# How long a server that did not answer is left alone while others do.
DOWN_FOR_S = 5.0
# An engine is busy when it works on this many requests of ours, and on more than its share of them and a quarter.
FEW = 4
SHARE = 1.25
GONE = 502  # whoever listens there has lost the engine behind it, and begun nothing


@dataclass(frozen=True)
class Target:
    public_name: str  # what the answer says in `model`
    source: str  # the base weights
    base: CatalogModel | None  # None: the base has left the catalog since the model was made
    adapter: FineTunedModel | None  # None: the base itself
    upstream: str | None = None  # set: nothing of the above answers, the request is passed on to this model there

    @property
    def weights_name(self) -> str:
        """What really answers, for the header that says so: an alias may point anywhere."""
        if self.upstream is not None:
            return self.upstream
        if self.adapter is not None:
            return self.adapter.name
        return self.base.name if self.base else self.source


def resolve(conn: Connection, catalog: Catalog, name: str, project_id: str) -> Target:
    """An alias of the project first, then its own and shared models, then the catalog. Raises no_such_model."""
    alias = models.find_alias(conn, project_id, name)
    if alias is not None and alias.target.startswith(UPSTREAM):
        return Target(name, UPSTREAM, None, None, upstream=alias.target.removeprefix(UPSTREAM))
    found = _find(conn, catalog, alias.target if alias else name, project_id)
    if found is None:
        raise no_such_model(name)
    if alias is None:
        return found
    return Target(name, found.source, found.base, found.adapter)


def _find(conn: Connection, catalog: Catalog, name: str, project_id: str) -> Target | None:
    own = models.find_model(conn, name, project_id)
    if own is not None:
        return Target(own.name, own.source, catalog.find(own.base_model), own)
    base = catalog.find(name)
    if base is None or not base.serving:
        return None
    return Target(base.name, base.source, base, None)


class Engines:
    def __init__(self, settings: Settings, blobs: Blobs, catalog: Catalog) -> None:
        self._fixed = settings.engines  # of the settings
        self._blobs = blobs
        self._catalog = catalog
        self._folder = settings.home / "adapters"
        self._http = EngineHttp(settings.engine_api_key)
        # Who starts engines on this machine, where somebody does, and those it has told of: source -> url.
        self._host = EngineHostClient(settings, self._http) if settings.engine_host_url else None
        self._hosted: dict[str, str] = {}
        self._served: dict[str, list[str]] = {}  # url -> the base names it serves
        self._ours: set[str] = set()  # urls that have our HTTP face
        self._asked: dict[str, str] = {}  # request_id -> the url that works on it
        self._at_work = Counter[str]()  # url -> how many requests of ours it works on
        self._down_until: dict[str, float] = {}  # url -> time.monotonic()
        self._loading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of models that are being loaded
        self._models_dir = settings.models_dir
        self._looks: set[asyncio.Task[None]] = set()  # whether models' bases are still the ones: asyncio keeps no task

    async def close(self) -> None:
        await self._http.close()

    @property
    def _urls(self) -> list[str]:
        return list(dict.fromkeys([*self._fixed, *self._hosted.values()]))

    async def is_up(self) -> bool:
        """Whether at least one engine answers its health check, or is about to where who starts them has it so."""
        if self._host and await self._host.is_up():
            return True
        for url in self._fixed:
            try:
                if (await self._http.get(f"{url}/health", timeout_s=2))[0] == 200:
                    return True
            except DOWN:
                continue
        return False

    async def states(self) -> dict[str, State]:
        """Of each base of the catalog, by its source. An engine of the settings is warm while it answers."""
        found: dict[str, State] = dict.fromkeys(self._catalog.sources(), "cold")
        if self._host:
            found |= {each.source: each.state for each in await self._host.list()}
        await self._discover_fixed()
        for source in found:
            if any(self._serves(url, source) for url in self._fixed):
                found[source] = "warm"
        return found

    async def stop(self, request_id: str) -> bool:
        """Ask the engine that works on the request to end it now. False when it could not be told."""
        url = self._asked.get(request_id)
        if url is None or url not in self._ours:
            return True
        try:
            await self._http.post(f"{url}/abort_requests", {"request_ids": [request_id]}, timeout_s=STOP_TIMEOUT_S)
        except DOWN:
            return False
        return True

    async def forget(self, model: FineTunedModel) -> None:
        """Of a model that is no more: no engine, and no copy of its files here, keeps it."""
        await asyncio.gather(*(self._unload(url, model) for url in self._urls))
        await asyncio.to_thread(shutil.rmtree, self._folder / model.id, ignore_errors=True)

    async def _unload(self, url: str, model: FineTunedModel) -> None:
        """An engine that has not loaded it says 404; one that is away has forgotten it when it comes back."""
        try:
            body = {"lora_name": model.id}
            await self._http.post(f"{url}/v1/unload_lora_adapter", body, timeout_s=STOP_TIMEOUT_S)
        except DOWN as exc:
            log.info("%s was not told that %s is gone: %r", url, model.id, exc)

    @asynccontextmanager
    async def post(self, path: str, body: dict[str, Any], target: Target) -> AsyncGenerator[Answer]:
        """The engine's answer to `body`, to be read in the block: what fails there becomes EngineLost. One that is
        Unreachable gives way to the next.

        Raises the engine's own error as TuneryError, NotFound when no server has the base, Unavailable when none is up,
        ServerFault when the adapter cannot be loaded.
        """
        if not self._urls and self._host is None:
            raise unavailable(say("error.no_engine"))
        last: Exception | None = None
        # An engine that this machine starts may leave, or fall, between being found and being asked: once more, then.
        for _ in range(HOST_TRIES if self._host else 1):
            for url in await self._candidates(target):
                request_id = body.get("request_id", "")
                self._asked[request_id] = url
                self._at_work[url] += 1
                try:
                    response = await self._send(url, path, body, target)
                    # Closed in the end whatever was read: what is not read to its end ends in the engine, too.
                    async with response:
                        with until_the_end():
                            yield Answer(response.read, response.content.iter_any)
                    return
                except Unreachable as exc:
                    self._mark_down(url)
                    last = exc
                finally:
                    self._asked.pop(request_id, None)
                    self._at_work[url] -= 1
        if last is None and all(url in self._served for url in self._fixed):
            raise not_served(target)
        log.warning("no engine answers for %s: %r", target.source, last)
        raise unavailable(say("error.engine_starting"))

    async def _send(self, url: str, path: str, body: dict[str, Any], target: Target) -> aiohttp.ClientResponse:
        """One server. An unknown adapter is loaded, once, and the request sent again."""
        response = await self._request(url, path, body, target)
        if response.status == 404 and target.adapter is not None:
            response.release()
            await self._load(url, target.adapter)
            response = await self._request(url, path, body, target)
        if response.status == GONE:
            response.release()
            raise Unreachable(url)
        if response.status >= 400:
            async with response:
                with until_the_end():
                    text = text_of(response.headers)
                    raise engine_error(response.status, await response.read(), target, text)
        return response

    async def _request(self, url: str, path: str, body: dict[str, Any], target: Target) -> aiohttp.ClientResponse:
        # Another request may have marked the server as down meanwhile: then the source's own name is as good.
        name = target.adapter.id if target.adapter else self._base_name(url, target) or target.source
        sent = {**body, "model": name}
        if url not in self._ours:
            sent.pop("priority", None)  # others refuse it unless they were started to schedule by it
        return await self._http.start(f"{url}{path}", orjson.dumps(sent))

    async def _candidates(self, target: Target) -> list[str]:
        """Servers that have the base, the adapter's usual one first, so that its cache and slot are warm, unless it is
        busy."""
        left_alone = await self._discover_fixed()
        able = self._able(target)
        if not able and self._host:
            able = [await self._warm(target.source, self._host)]
        if not able:
            # Nobody answers: those that were left alone are asked after all, so that a restart is noticed at once.
            await asyncio.gather(*(self._discover(url) for url in left_alone))
            able = self._able(target)
        key = target.adapter.id if target.adapter else target.source
        # Ours offers every embedding model of the catalog: who has set up another server for one wants that asked.
        embeds = target.base is not None and target.base.embeds
        return sorted(in_order(key, able, self._at_work), key=lambda url: embeds and url in self._ours)

    async def _warm(self, source: str, host: EngineHostClient) -> str:
        """The address of its engine, once that answers. Raises as `EngineHostClient.warm`."""
        url = await host.warm(source)
        self._hosted[source] = url
        self._ours = self._ours | {url}
        return url

    async def _discover_fixed(self) -> list[str]:
        """Ask the engines of the settings what they have, but for those that were down just now, which are returned."""
        now = time.monotonic()
        missing = [url for url in self._fixed if url not in self._served]
        left_alone = [url for url in missing if self._down_until.get(url, 0) > now]
        await asyncio.gather(*(self._discover(url) for url in missing if url not in left_alone))
        return left_alone

    def _able(self, target: Target) -> list[str]:
        """Servers that have the base. Who reads the chat is ours, as it was in training."""
        embeds = target.base is not None and target.base.embeds
        return [url for url in self._urls if self._base_name(url, target) and (embeds or url in self._ours)]

    async def _discover(self, url: str) -> None:
        try:
            status, content = await self._http.get(f"{url}/v1/models", timeout_s=DISCOVER_TIMEOUT_S)
            rows: list[dict[str, Any]] = orjson.loads(content)["data"] if status == 200 else []
            if status == 401:
                log.error("%s refuses this server's key: engine_api_key must be the one that it was started with", url)
        except (*DOWN, ValueError, KeyError):
            rows = []
        if rows:
            self._served[url] = [row["id"] for row in rows if not row.get("parent")]
            is_ours = all(row.get("owned_by") == "tunery" for row in rows)
            self._ours = self._ours | {url} if is_ours else self._ours - {url}
            if not is_ours:
                log.warning("%s is asked for embeddings only; before a vLLM goes `python -m tunery.serving.vllm`", url)
        else:
            self._mark_down(url)

    def _mark_down(self, url: str) -> None:
        self._served.pop(url, None)
        self._hosted = {source: each for source, each in self._hosted.items() if each != url}
        self._down_until[url] = time.monotonic() + DOWN_FOR_S

    def _base_name(self, url: str, target: Target) -> str | None:
        """What the server calls the target's base; None when it does not have it."""
        return self._serves(url, target.source)

    def _serves(self, url: str, source: str) -> str | None:
        if url not in self._fixed:
            return source if self._hosted.get(source) == url else None
        is_only = self._host is None and len(self._fixed) == 1
        return self._catalog.served_as(source, self._served.get(url, []), is_only_engine=is_only)

    async def _load(self, url: str, model: FineTunedModel) -> None:
        async with self._loading.setdefault(model.id, asyncio.Lock()):
            folder = await asyncio.to_thread(self._adapter_folder, model)
            status, content = await self._http.post(
                f"{url}/v1/load_lora_adapter",
                {"lora_name": model.id, "lora_path": str(folder)},
                timeout_s=LOAD_TIMEOUT_S,
            )
            if status == GONE:
                raise Unreachable(url)
            # Two requests may have met the missing adapter; to the second it "has already been loaded".
            if status >= 400 and b"already" not in content:
                log.error("%s could not be loaded by %s: %s", folder, url, content[:1000].decode(errors="replace"))
                raise ServerFault(say("error.weights_not_loaded", name=model.name))
        # A large base takes seconds to be hashed: the answer does not wait for it.
        look = asyncio.create_task(asyncio.to_thread(self._tell_of_changed_base, model))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    def _tell_of_changed_base(self, model: FineTunedModel) -> None:
        folder = sources.cached(model.source, self._models_dir)
        if folder is not None and sources.is_changed(folder, model.base_sha256):
            log.warning(
                "%s was trained on other weights of %s than those that are in %s now: it may answer otherwise",
                model.name, model.source, folder,
            )  # fmt: skip

    def _adapter_folder(self, model: FineTunedModel) -> Path:
        """A folder that the engine can read: the blob store's own where it is one, else a copy, whole or absent."""
        local = self._blobs.local_path(model.blob)
        if local is not None:
            return local
        folder = self._folder / model.id
        if not folder.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic.replacing_folder(folder, unless_there=True) as part:
                if self._blobs.download_dir(model.blob, part) == 0:
                    raise ServerFault(say("error.weights_missing", name=model.name))
        return folder


def in_order(key: str, urls: Sequence[str], at_work: Mapping[str, int]) -> list[str]:
    """The engines in the order in which those who ask for `key` turn to them. It is the same at every api, so that a
    model stays where it is warm. Those that are busy come last: a hot model takes a second one, always the same, and is
    warm there from then on (consistent hashing with bounded loads). `at_work`: how many requests each works on."""
    usual = sorted(urls, key=lambda url: hashlib.sha256(f"{key} {url}".encode()).digest())
    num_running = 1 + sum(at_work.get(url, 0) for url in urls)
    bound = max(FEW, math.ceil(SHARE * num_running / max(1, len(urls))))
    return sorted(usual, key=lambda url: at_work.get(url, 0) >= bound)


def not_served(target: Target) -> NotFound:
    """404 as for any model that cannot be used, and no 503: to try again would not help."""
    return NotFound(
        say("error.base_not_loaded", public_name=target.public_name, source=target.source),
        param="model",
        code="model_not_found",
    )


def engine_error(status: int, content: bytes, target: Target, text: Reference | None = None) -> TuneryError:
    """What the client is told. The engine's names for models are replaced by the one that the client used. `text`:
    key and values of the sentence, which our engine sends along."""
    error = _engine_error(status, detail_of(content), target)
    error.text = error.text or text
    return error


def _engine_error(status: int, detail: dict[str, Any], target: Target) -> TuneryError:
    message = str(detail.get("message") or "") or say("error.engine_answered", status=status)
    if target.adapter is not None:
        message = message.replace(target.adapter.id, target.public_name)
    param, code = detail.get("param"), detail.get("code")
    code = code if isinstance(code, str) else None
    if "maximum context length" in message:
        code, param = "context_length_exceeded", param or "messages"
    if status == 404:
        return no_such_model(target.public_name)
    if status in (429, 503):
        return Unavailable(message, code=code or "slow_down", headers={"retry-after": RETRY_AFTER_S})
    if status < 500:
        return InvalidRequest(message, param=param if isinstance(param, str) else None, code=code)
    return TuneryError(say("error.engine_failed"))
