"""The JSON objects of answers, in OpenAI's shapes."""

import time
from dataclasses import dataclass, field
from typing import Any

from tunery.datasets.tools import ToolCall
from tunery.serving.requests import TokenLogprob
from tunery.serving.text import TokenTable


@dataclass
class Usage:
    num_prompt_tokens: int
    num_cached_tokens: int = 0
    num_output_tokens: dict[str, int] = field(default_factory=dict)  # by sequence

    def document(self) -> dict[str, Any]:
        output = sum(self.num_output_tokens.values())
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": output,
            "total_tokens": self.num_prompt_tokens + output,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


@dataclass(frozen=True)
class Heading:
    """What every object of one answer repeats."""

    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def document(self, kind: str, **members: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            **members,
            "system_fingerprint": self.fingerprint,
        }


def chat_logprobs(entries: list[TokenLogprob], table: TokenTable) -> dict[str, Any]:
    return {"content": [_chat_entry(entry, table) for entry in entries], "refusal": None}


def _chat_entry(entry: TokenLogprob, table: TokenTable) -> dict[str, Any]:
    top = [_token(token_id, logprob, table) for token_id, logprob in entry.top]
    return {**_token(entry.token_id, entry.logprob, table), "top_logprobs": top}


def _token(token_id: int, logprob: float, table: TokenTable) -> dict[str, Any]:
    raw = table.bytes_of(token_id)
    # JSON has no infinity; OpenAI writes -9999.0 for what cannot be drawn.
    return {"token": table.text_of(token_id), "logprob": max(logprob, -9999.0), "bytes": list(raw) if raw else None}


def completion_logprobs(entries: list[TokenLogprob], table: TokenTable, offset: int) -> dict[str, Any]:
    """The old form: parallel lists. `offset`: characters before the first token."""
    tokens = [table.text_of(entry.token_id) for entry in entries]
    offsets, position = [], offset
    for token in tokens:
        offsets.append(position)
        position += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [max(entry.logprob, -9999.0) for entry in entries],
        "top_logprobs": [
            {table.text_of(token_id): max(logprob, -9999.0) for token_id, logprob in entry.top} or None
            for entry in entries
        ],
        "text_offset": offsets,
    }


def prompt_logprobs(entries: tuple[TokenLogprob | None, ...], table: TokenTable) -> list[dict[str, Any] | None]:
    """vLLM's form: None for the first token, then by token id."""
    return [None if entry is None else _prompt_entry(entry, table) for entry in entries]


def _prompt_entry(entry: TokenLogprob, table: TokenTable) -> dict[str, Any]:
    ranked = {token_id: (logprob, rank) for rank, (token_id, logprob) in enumerate(entry.top, 1)}
    ranked[entry.token_id] = (entry.logprob, entry.rank or 0)
    return {
        str(token_id): {"logprob": logprob, "rank": rank, "decoded_token": table.text_of(token_id)}
        for token_id, (logprob, rank) in ranked.items()
    }


def call_document(call: ToolCall, call_id: str, index: int | None = None) -> dict[str, Any]:
    document = {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return document if index is None else {"index": index, **document}
