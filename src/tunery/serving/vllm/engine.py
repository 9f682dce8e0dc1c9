"""Generations go to a vLLM as token ids, and come back as token ids, of which `Answer` makes text, log-probabilities
and ends as it does for the engine's own.

So everything that a client sees is made by the same code: vLLM's chat templates, tool parsers and texts are not used.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from tunery.domain.errors import InvalidRequest, NotFound, ServerFault, TuneryError, Unavailable, no_such_model
from tunery.engines.http import DOWN, EngineHttp, Unreachable, detail_of, until_the_end
from tunery.serving.answer import Answer
from tunery.serving.constraints import Constraint
from tunery.serving.metrics import EngineMetrics
from tunery.serving.requests import Generation, Output, TokenLogprob
from tunery.serving.text import TokenTable
from tunery.texts import say
from tunery.wire.stream import read_events

log = logging.getLogger(__name__)

Json = dict[str, Any]
Sink = Callable[[list[Output]], None]

LOAD_TIMEOUT_S = 60.0
WATCH_S = 1.0
WATCH_TIMEOUT_S = 10.0
MAX_SILENT = 3  # looks without an answer, after which vLLM counts as gone
# An answer that has ended here ends there, too: by the same stop, or by the end that a full grammar leaves. vLLM says
# the cached tokens last. Where it goes on all the same, it is cut off after so many pieces.
MAX_AFTER_END = 8


@dataclass(eq=False)
class _Running:
    generation: Generation
    answer: Answer
    constraint: Constraint | None
    arrived_at: float
    task: "asyncio.Task[None] | None" = None
    last_token_at: float | None = None

    def aborted(self) -> Output:
        """vLLM does not say how far a prompt has come: it counts whole."""
        return Output(self.generation.id, num_output_tokens=self.answer.num_tokens, finish_reason="abort")


class VllmEngine:
    """Lives in the event loop; made and called there."""

    def __init__(
        self,
        http: EngineHttp,
        url: str,
        base: str,
        adapters: dict[str, Path],
        *,
        context_length: int,
        table: TokenTable,
        eos_ids: frozenset[int],
        sink: Sink,
    ) -> None:
        """`base`: vLLM's name of the weights without an adapter; `adapters`: those that it has already."""
        self.metrics = EngineMetrics()
        self.context_length = context_length
        self.failure: BaseException | None = None
        self._http = http
        self._url = url
        self._base = base
        self._folders = adapters
        self._table = table
        self._eos_ids = eos_ids
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, _Running] = {}
        self._watch: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._gate, self._idle = asyncio.Lock(), asyncio.Event()  # of `_turn`
        self._idle.set()
        self._num_asked = 0

    @property
    def is_alive(self) -> bool:
        return self.failure is None and not self._is_stopping

    @property
    def adapters(self) -> frozenset[str]:
        return frozenset(self._folders)

    def start(self) -> None:
        self._watch = self._loop.create_task(self._look_after())

    def stop(self) -> None:
        """From another thread than the loop's."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()

    async def _stop(self) -> None:
        self._is_stopping = True
        for task in [self._watch, *(running.task for running in self._running.values())]:
            if task is not None:
                task.cancel()
        await self._http.close()

    async def _look_after(self) -> None:
        """Without vLLM this process is of no use: it ends, and whoever watches it starts it again."""
        num_silent = 0
        while num_silent < MAX_SILENT:
            await asyncio.sleep(WATCH_S)
            try:
                status, _ = await self._http.get(f"{self._url}/health", timeout_s=WATCH_TIMEOUT_S)
            except DOWN:
                status = 0
            num_silent = 0 if status == 200 else num_silent + 1
        log.error("vLLM at %s has gone", self._url)
        self.failure = Unreachable(self._url)

    def submit(self, generations: list[Generation]) -> None:
        """Outputs come to the sink; InvalidRequest and ServerFault, too, as the error of one."""
        for generation in generations:
            answer = Answer(generation, self._table, self._eos_ids, self.context_length)
            grammar = generation.params.grammar
            running = _Running(generation, answer, grammar and grammar.start(), time.monotonic())
            self._running[generation.id] = running
            running.task = self._loop.create_task(self._run(running))
        self.metrics.running.set(len(self._running))

    def abort(self, ids: list[str], *, report: bool = False) -> None:
        """vLLM ends a request whose connection is closed."""
        for each in ids:
            running = self._running.get(each)
            if running is not None and running.task is not None:
                running.task.cancel()
                self._forget(running, "abort")
                if report:
                    self._sink([running.aborted()])

    def load(self, name: str, folder: Path) -> "Future[None]":
        """The future raises InvalidRequest when vLLM does not take it."""
        return asyncio.run_coroutine_threadsafe(self._load(name, folder), self._loop)

    def unload(self, name: str) -> "Future[None]":
        """The future raises NotFound when there is none, ServerFault when vLLM keeps it."""
        return asyncio.run_coroutine_threadsafe(self._unload(name), self._loop)

    # Adapters.

    async def _load(self, name: str, folder: Path) -> None:
        if self._folders.get(name) == folder:
            return
        body = {"lora_name": name, "lora_path": str(folder)}
        status, content = await self._post("/v1/load_lora_adapter", body)
        if status == 400 and b"already" in content:  # from where it lay before this process, or another one, came
            await self._post("/v1/unload_lora_adapter", {"lora_name": name})
            status, content = await self._post("/v1/load_lora_adapter", body)
        if status != 200:
            raise InvalidRequest(f"vLLM does not load it: {_message(status, content)}", param="lora_path")
        self._folders[name] = folder
        self.metrics.adapter_loads.inc()
        self.metrics.registered.set(len(self._folders))

    async def _unload(self, name: str) -> None:
        if self._folders.pop(name, None) is None:
            raise NotFound(f"The adapter {name!r} is not loaded.", param="lora_name")
        self.metrics.registered.set(len(self._folders))
        status, content = await self._post("/v1/unload_lora_adapter", {"lora_name": name})
        if status not in (200, 404):
            raise ServerFault(f"vLLM does not unload it: {_message(status, content)}")

    async def _post(self, path: str, body: Json) -> tuple[int, bytes]:
        try:
            return await self._http.post(self._url + path, body, timeout_s=LOAD_TIMEOUT_S)
        except Unreachable as exc:
            raise vllm_gone() from exc

    # One sequence.

    async def _run(self, running: _Running) -> None:
        try:
            async for output in self._outputs(running):
                self._sink([output])
                if output.finish_reason is not None:
                    self._forget(running, output.finish_reason)
        except TuneryError as exc:
            self._fail(running, exc)
        except Exception:
            log.exception("an answer of vLLM's could not be read")
            self._fail(running, ServerFault(say("error.engine_failed")))

    def _fail(self, running: _Running, error: TuneryError) -> None:
        self._forget(running, "error")
        self._sink([Output(running.generation.id, finish_reason="error", error=error)])

    def _forget(self, running: _Running, reason: str) -> None:
        if self._running.pop(running.generation.id, None) is not None:
            self.metrics.finished.labels(reason).inc()
            self.metrics.running.set(len(self._running))

    async def _outputs(self, running: _Running) -> AsyncGenerator[Output]:
        """As vLLM gives them. The last one waits for what vLLM says at its end of the cached tokens."""
        last: Output | None = None
        num_after, num_cached = 0, 0
        alone = running.generation.params.prompt_logprobs is not None
        async with self._turn(alone=alone), aclosing(self._documents(running.generation)) as documents:
            async for document in documents:
                num_cached = max(num_cached, _num_cached(document))
                num_after += last is not None
                if num_after > MAX_AFTER_END:
                    break
                for choice in document["choices"] if last is None else ():
                    for output in self._pushed(running, choice):
                        if output.finish_reason is None:
                            yield output
                        else:
                            last = output
        if last is None:
            raise ServerFault(say("error.engine_failed"))
        self.metrics.cached_tokens.inc(num_cached)
        yield replace(last, num_cached_tokens=num_cached)

    def _pushed(self, running: _Running, choice: Json) -> list[Output]:
        """Outputs of a choice's tokens, up to one that ends the answer."""
        params = running.generation.params
        scores = _prompt_scores(choice, running.generation) if params.prompt_logprobs is not None else None
        outputs: list[Output] = []
        for token_id, logprob in _tokens(choice, params.top_logprobs) if params.max_tokens else ():
            outputs.append(self._push(running, token_id, logprob))
            if outputs[-1].finish_reason is not None:
                break
        reason = choice.get("finish_reason")
        if reason in ("abort", "error"):
            raise ServerFault(say("error.engine_failed"))
        if reason is not None and not (outputs and outputs[-1].finish_reason):
            outputs.append(running.answer.end("stop" if reason == "stop" and params.max_tokens else "length"))
        return [replace(output, prompt_logprobs=scores) for output in outputs] if scores else outputs

    def _push(self, running: _Running, token_id: int, logprob: TokenLogprob | None) -> Output:
        self._observe(running)
        constraint, is_complete = running.constraint, False
        if constraint is not None:
            constraint.advance(token_id)
            if constraint.has_failed:
                raise InvalidRequest(say("error.schema_grew"))
            is_complete = constraint.is_complete
        return running.answer.push(token_id, logprob, is_complete=is_complete)

    def _observe(self, running: _Running) -> None:
        now = time.monotonic()
        if running.last_token_at is None:
            self.metrics.ttft.observe(now - running.arrived_at)
            self.metrics.prompt_tokens.inc(len(running.generation.prompt_ids))
        else:
            self.metrics.inter_token.observe(now - running.last_token_at)
        running.last_token_at = now
        self.metrics.output_tokens.inc()

    @asynccontextmanager
    async def _turn(self, *, alone: bool) -> AsyncIterator[None]:
        """A prompt's log-probabilities are asked for alone: beside other requests vLLM 0.32 with adapters ends over
        them on a CPU (its product with the adapter's head takes the batch's rows for the prompt's)."""
        async with self._gate:
            if alone:
                await self._idle.wait()
                yield
                return
            self._num_asked += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._num_asked -= 1
            if not self._num_asked:
                self._idle.set()

    async def _documents(self, generation: Generation) -> AsyncGenerator[Json]:
        """What vLLM answers: chunks, or all at once where the prompt's log-probabilities are asked for. Raises what
        the client is told."""
        body = self._body(generation)
        try:
            response = await self._http.start(f"{self._url}/v1/completions", orjson.dumps(body))
        except Unreachable as exc:
            raise vllm_gone() from exc
        async with response:
            with until_the_end():
                if response.status != 200:
                    raise self._refusal(generation, response.status, await response.read())
                if not body["stream"]:
                    yield orjson.loads(await response.read())
                    return
                async for chunk in read_events(response.content.iter_any()):
                    if "error" in chunk:
                        log.error("vLLM gave an answer up: %s", chunk["error"])
                        raise ServerFault(say("error.engine_failed"))
                    yield chunk

    def _body(self, generation: Generation) -> Json:
        """In vLLM's names. What the model's generation_config.json would change is set, too: we do not change it."""
        params = generation.params
        streams = params.prompt_logprobs is None
        wanted: Json = {
            "model": generation.adapter or self._base,
            "request_id": generation.id,
            "prompt": generation.prompt_ids,
            "max_tokens": max(1, params.max_tokens),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "stop": list(params.stop),
            "stop_token_ids": [] if params.ignore_eos else sorted(self._eos_ids),
            "ignore_eos": params.ignore_eos,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stream": streams,
            "stream_options": {"include_usage": True} if streams else None,
            "seed": None if params.seed is None else _seed(params.seed),
            "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()} or None,
            "logprobs": params.top_logprobs,
            "prompt_logprobs": params.prompt_logprobs,
            "structured_outputs": {"grammar": params.grammar.text} if params.grammar else None,
            "cache_salt": generation.salt or None,
            "priority": generation.priority or None,
        }
        return {key: value for key, value in wanted.items() if value is not None}

    def _refusal(self, generation: Generation, status: int, content: bytes) -> TuneryError:
        message = _message(status, content)
        if status == 404 and generation.adapter is not None:  # it was started anew: whoever asks loads it again
            self._folders.pop(generation.adapter, None)
            return no_such_model(generation.adapter)
        log.error("vLLM refused a request: %s", message)
        if status >= 500:
            return ServerFault(say("error.engine_failed"))
        return InvalidRequest(message)


def vllm_gone() -> Unavailable:
    """502: nothing of the request was begun, so that another engine may be asked."""
    error = Unavailable(say("error.engine_down"), code="server_is_overloaded", headers={"Retry-After": "2"})
    error.status = 502
    return error


def _message(status: int, content: bytes) -> str:
    return str(detail_of(content).get("message") or f"HTTP {status}")


def _seed(text: str) -> int:
    """A number of 63 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _num_cached(document: Json) -> int:
    details = (document.get("usage") or {}).get("prompt_tokens_details") or {}
    return details.get("cached_tokens") or 0


def _tokens(choice: Json, num_top: int | None) -> list[tuple[int, TokenLogprob | None]]:
    """The choice's new tokens, with their log-probabilities where those were asked for."""
    ids: list[int] = choice["token_ids"]
    if num_top is None:
        return [(token_id, None) for token_id in ids]
    given = choice["logprobs"]
    rows = zip(ids, given["token_logprobs"], given["top_logprobs"], strict=True)
    return [(token_id, TokenLogprob(token_id, own, top=_likeliest(top, num_top))) for token_id, own, top in rows]


def _likeliest(given: dict[str, float], num_top: int) -> tuple[tuple[int, float], ...]:
    """`given`: by `token_id:N`, the drawn token and the likeliest, which may be one more than was asked for."""
    ranked = sorted(given.items(), key=lambda item: -item[1])[:num_top]
    return tuple((int(key.removeprefix("token_id:")), logprob) for key, logprob in ranked)


def _prompt_scores(choice: Json, generation: Generation) -> tuple[TokenLogprob | None, ...]:
    num_top = generation.params.prompt_logprobs or 0
    entries: list[dict[str, Json] | None] = choice["prompt_logprobs"]
    return tuple(
        None if entry is None else _prompt_score(entry, token_id, num_top)
        for entry, token_id in zip(entries, generation.prompt_ids, strict=True)
    )


def _prompt_score(entry: dict[str, Json], token_id: int, num_top: int) -> TokenLogprob:
    own = entry[str(token_id)]
    ranked = sorted((found["rank"], int(key), found["logprob"]) for key, found in entry.items())
    top = tuple((key, logprob) for rank, key, logprob in ranked if rank <= num_top)
    return TokenLogprob(token_id, own["logprob"], own["rank"], top)
