"""Puts the face before a vLLM together: looks what runs there, and whether it is started as it must be."""

import asyncio
import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest
from tunery.engines.http import DOWN, EngineHttp
from tunery.serving.constraints import Grammars
from tunery.serving.http.broker import Broker
from tunery.serving.http.service import Service
from tunery.serving.text import TokenTable
from tunery.serving.vllm.engine import VllmEngine
from tunery.serving.vllm.settings import VllmSettings

log = logging.getLogger(__name__)

WAIT_S = 1.0
WAITED_LOUDLY = 15  # looks between two lines in the log
LOOK_TIMEOUT_S = 60.0  # the first request may have to compile
# What answers depend on: each is something that a vLLM may be started without.
FLAGS = (
    "--enable-prompt-tokens-details --scheduling-policy priority "
    '--structured-outputs-config \'{"backend": "guidance"}\''
)
SAMPLE = 'A sample: naïve 東京 🗼 {"a": [1, 2]}\n\tend'


async def build_service(settings: VllmSettings, loop: asyncio.AbstractEventLoop) -> Service:
    """Waits until vLLM answers. Raises InvalidRequest for a folder that is no model's, another tokenizer there, and
    a vLLM that was started without what is needed."""
    renderer, vocab_size = await asyncio.to_thread(_read, settings.model_dir)
    http = EngineHttp(SecretStr(settings.vllm_key) if settings.vllm_key else None)
    try:
        await _wait(http, settings.url)
        look = _Look(http, settings.url)
        bases, adapters, context_length = await look.models()
        await look.check_tokenizer(renderer)
        await look.check_flags(bases[0], renderer.encode(SAMPLE))
        version = await look.version()
    except BaseException:
        await http.close()
        raise
    table = TokenTable(renderer.tokenizer, vocab_size)
    broker = Broker(loop)
    engine = VllmEngine(
        http,
        settings.url,
        bases[0],
        adapters,
        context_length=context_length,
        table=table,
        eos_ids=renderer.eos_ids,
        sink=broker.sink,
    )
    engine.metrics.describe(base=settings.served_names[0], weights=f"vLLM {version}", instructions="")
    return Service(
        engine=engine,
        broker=broker,
        renderer=renderer,
        table=table,
        grammars=Grammars(settings.model_dir, vocab_size, renderer.eos_ids),
        embeddings=None,
        base_names=settings.served_names,
        fingerprint="fp_" + sha256(f"{settings.model_dir.name} vllm {version}".encode()).hexdigest()[:10],
        api_key=settings.api_key,
        host=settings.host,
        adapters_below=settings.adapters_below,
    )


def _read(model_dir: Path) -> tuple[Renderer, int]:
    """The renderer and the size of the vocabulary. vLLM knows more architectures than the engine: only what any
    config.json has is read."""
    try:
        config: dict[str, Any] = json.loads((model_dir / "config.json").read_text("utf-8"))
        return Renderer.from_dir(model_dir), int((config.get("text_config") or config)["vocab_size"])
    except (OSError, ValueError, KeyError) as exc:
        raise InvalidRequest(f"{model_dir} is no folder of a model: {exc}") from exc


async def _wait(http: EngineHttp, url: str) -> None:
    """vLLM takes a minute and more to start, and both are often started at once."""
    num_looks = 0
    while True:
        try:
            if (await http.get(f"{url}/health", timeout_s=LOOK_TIMEOUT_S))[0] == 200:
                return
        except DOWN:
            pass
        if num_looks % WAITED_LOUDLY == 0:
            log.warning("waiting for vLLM at %s", url)
        num_looks += 1
        await asyncio.sleep(WAIT_S)


class _Look:
    """At a vLLM that has started."""

    def __init__(self, http: EngineHttp, url: str) -> None:
        self._http = http
        self._url = url

    async def models(self) -> tuple[list[str], dict[str, Path], int]:
        """Names of the weights without an adapter, folders of adapters by their names, and the context's tokens."""
        status, content = await self._http.get(f"{self._url}/v1/models", timeout_s=LOOK_TIMEOUT_S)
        if status == 401:
            raise InvalidRequest(f"vLLM at {self._url} asks for a key: set VLLM_API_KEY, here as there.")
        rows: list[dict[str, Any]] = orjson.loads(content)["data"]
        bases = [row for row in rows if not row.get("parent")]
        adapters = {row["id"]: Path(row["root"]) for row in rows if row.get("parent")}
        return [row["id"] for row in bases], adapters, int(bases[0]["max_model_len"])

    async def version(self) -> str:
        status, content = await self._http.get(f"{self._url}/version", timeout_s=LOOK_TIMEOUT_S)
        return str(orjson.loads(content)["version"]) if status == 200 else "unknown"

    async def check_tokenizer(self, renderer: Renderer) -> None:
        """Ids of another vocabulary would be answered with nonsense, and nobody would say why."""
        body = {"prompt": SAMPLE, "add_special_tokens": False}
        status, content = await self._http.post(f"{self._url}/tokenize", body, timeout_s=LOOK_TIMEOUT_S)
        told = orjson.loads(content).get("tokens") if status == 200 else None
        if told is not None and told != renderer.encode(SAMPLE):
            raise InvalidRequest(
                f"vLLM at {self._url} has another tokenizer than --model-dir: start it on that folder."
            )

    async def check_flags(self, base: str, prompt_ids: list[int]) -> None:
        """One token is asked for with everything that a vLLM may be unable to do as it was started."""
        body = {
            "model": base,
            "prompt": prompt_ids,
            "max_tokens": 1,
            "priority": 1,
            "return_token_ids": True,
            "structured_outputs": {"grammar": 'start: %json {"const": "a"}\n'},
        }
        status, content = await self._http.post(f"{self._url}/v1/completions", body, timeout_s=LOOK_TIMEOUT_S)
        answer: dict[str, Any] = orjson.loads(content) if status == 200 else {}
        lacks_counts = status == 200 and (answer["usage"].get("prompt_tokens_details") is None)
        if status != 200 or lacks_counts:
            said = "it does not count cached tokens" if lacks_counts else content[:500].decode(errors="replace")
            raise InvalidRequest(f"Start vLLM at {self._url} with {FLAGS}: {said}")
