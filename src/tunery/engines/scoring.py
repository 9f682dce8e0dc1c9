"""What a worker asks of one engine, without an event loop: how likely a model finds a text, and short answers."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr

from tunery.engines.http import DOWN, EngineHttp
from tunery.texts import say

REQUEST_TIMEOUT_S = 120.0
LOOK_TIMEOUT_S = 5.0
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def prompt_logprobs(answer: dict[str, Any], num_tokens: int) -> list[Any] | None:
    """Of an answer to a request with `prompt_logprobs`, one entry a token of the prompt; None where it has no such."""
    entries = answer["choices"][0].get("prompt_logprobs") or answer.get("prompt_logprobs")
    return entries if entries and len(entries) == num_tokens else None


class EngineUnreachable(Exception):
    """The engine gave no usable answer; the message says what it said instead."""


@dataclass(frozen=True)
class EngineScorer:
    """An engine that speaks vLLM's dialect: ours or vLLM itself."""

    base_url: str
    key: SecretStr | None = None

    def score(self, model: str, token_ids: list[int]) -> list[float]:
        """Of every token but the first. Raises EngineUnreachable."""
        request = {
            "model": model,
            "prompt": token_ids,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,  # vLLM: the prompt's own token only
        }
        answer = self._post(COMPLETIONS, request)
        entries = prompt_logprobs(answer, len(token_ids))
        if entries is None:
            raise EngineUnreachable(say("event.parity.no_logprobs"))
        return [_logprob(entry, token) for entry, token in zip(entries[1:], token_ids[1:], strict=True)]

    def answer(self, model: str, messages: list[dict[str, str]], *, max_tokens: int) -> dict[str, Any]:
        """A chat completion, the likeliest token each time. Raises EngineUnreachable."""
        asked = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        return self._post(CHAT, asked)

    @contextmanager
    def adapter(self, name: str, folder: Path) -> Generator[None]:
        """The adapter is loaded under `name` inside the block only. Raises EngineUnreachable."""
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        try:
            yield
        finally:
            self._post("/v1/unload_lora_adapter", {"lora_name": name})

    def bases(self) -> list[str]:
        """What it serves besides adapters; nothing when it does not answer."""
        try:
            _, content = self._ask(lambda http: http.get(f"{self.base_url}/v1/models", timeout_s=LOOK_TIMEOUT_S))
            return [row["id"] for row in orjson.loads(content)["data"] if not row.get("parent")]
        except (*DOWN, ValueError, KeyError):
            return []

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            status, content = self._ask(lambda http: http.post(self.base_url + path, body, timeout_s=REQUEST_TIMEOUT_S))
        except DOWN as exc:
            raise EngineUnreachable(say("event.parity.silent", path=path, name=type(exc).__name__)) from exc
        if not 200 <= status < 300:
            answer = content.decode(errors="replace")[:300]
            raise EngineUnreachable(say("event.parity.answered", path=path, status=status, answer=answer))
        # vLLM answers the adapter endpoints with plain text.
        return orjson.loads(content) if path in (COMPLETIONS, CHAT) else {}

    def _ask(self, send: Callable[[EngineHttp], Awaitable[tuple[int, bytes]]]) -> tuple[int, bytes]:
        async def asked() -> tuple[int, bytes]:
            http = EngineHttp(self.key)
            try:
                return await send(http)
            finally:
                await http.close()

        with start_blocking_portal() as portal:
            return portal.call(asked)


def _logprob(entry: dict[str, Any], token: int) -> float:
    return float(entry[str(token)]["logprob"])
