"""How likely a model finds a text, asked of one engine: nothing is generated. Without an event loop, for the worker."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from tunery.texts import say
from tunery.tracing import outgoing_headers

REQUEST_TIMEOUT_S = 120.0


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
        answer = self._post("/v1/completions", request)
        entries = prompt_logprobs(answer, len(token_ids))
        if entries is None:
            raise EngineUnreachable(say("event.parity.no_logprobs"))
        return [_logprob(entry, token) for entry, token in zip(entries[1:], token_ids[1:], strict=True)]

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
            answer = httpx.get(f"{self.base_url}/v1/models", headers=self._headers(), timeout=5)
            return [row["id"] for row in answer.raise_for_status().json()["data"] if not row.get("parent")]
        except (httpx.HTTPError, ValueError, KeyError):
            return []

    def _headers(self) -> dict[str, str]:
        known = {} if self.key is None else {"authorization": f"Bearer {self.key.get_secret_value()}"}
        return {**known, **outgoing_headers()}

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = httpx.post(self.base_url + path, json=body, headers=self._headers(), timeout=REQUEST_TIMEOUT_S)
        except httpx.HTTPError as exc:
            raise EngineUnreachable(f"{path}: {type(exc).__name__}: {exc}") from exc
        if not answer.is_success:
            raise EngineUnreachable(
                say("event.parity.answered", path=path, status=answer.status_code, answer=answer.text[:300])
            )
        # vLLM answers the adapter endpoints with plain text.
        return answer.json() if path == "/v1/completions" else {}


def _logprob(entry: dict[str, Any], token: int) -> float:
    return float(entry[str(token)]["logprob"])
