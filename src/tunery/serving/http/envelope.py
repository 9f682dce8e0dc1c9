"""The JSON objects of answers, in OpenAI's shapes."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tunery.chat.tools import ToolCall
from tunery.serving.requests import Generation, Output, TokenLogprob
from tunery.serving.text import TextStream, TokenTable, escaped


class Usage:
    """What a request has come to. The answers to one prompt share it, and it counts once."""

    def __init__(self, prompts: list[list[Generation]]) -> None:
        """`prompts`: the generations of each."""
        self._prompt_of = {each.id: number for number, same in enumerate(prompts) for each in same}
        self._first = {same[0].id for same in prompts}
        self._full = [len(same[0].prompt_ids) for same in prompts]
        self._prompt = [0] * len(prompts)
        self._cached = [0] * len(prompts)
        self._output: dict[str, int] = {}

    def take(self, output: Output) -> None:
        number = self._prompt_of[output.id]
        come = self._full[number] if output.num_prompt_tokens is None else output.num_prompt_tokens
        self._prompt[number] = max(self._prompt[number], come)
        self._output[output.id] = output.num_output_tokens
        if output.id in self._first:  # the others find its blocks in the cache
            self._cached[number] = output.num_cached_tokens

    def document(self) -> dict[str, Any]:
        prompt, output = sum(self._prompt), sum(self._output.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached)},  # as vLLM; the api adds what clients expect
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


def completion_logprobs(entries: Iterable[TokenLogprob], offsets: list[int], table: TokenTable) -> dict[str, Any]:
    """The old form: parallel lists. `offsets`: where in the text each token begins, in characters."""
    entries = list(entries)
    return {
        "tokens": [_key(entry.token_id, table) for entry in entries],
        "token_logprobs": [max(entry.logprob, -9999.0) for entry in entries],
        "top_logprobs": [_candidates(entry.top, table) or None for entry in entries],
        "text_offset": offsets,
    }


def _candidates(top: tuple[tuple[int, float], ...], table: TokenTable) -> dict[str, float]:
    """By text. Two tokens may spell the same: then the second stands by its bytes, and a third by its id."""
    candidates: dict[str, float] = {}
    for token_id, logprob in top:
        names = (_key(token_id, table), "bytes:" + escaped(table.shown_bytes(token_id)), f"token_id:{token_id}")
        candidates[next(name for name in names if name not in candidates)] = max(logprob, -9999.0)
    return candidates


def _key(token_id: int, table: TokenTable) -> str:
    """A token in the old form: its text, or its bytes where they are no whole characters."""
    return table.text_of(token_id) if table.is_text(token_id) else "bytes:" + table.text_of(token_id)


def echoed_logprobs(
    prompt_ids: list[int], scores: tuple[TokenLogprob | None, ...], text: str, table: TokenTable
) -> dict[str, Any]:
    """The prompt's own, as it stands before its answer. Its first token has none."""
    offsets = _offsets(prompt_ids, text, table)
    rest = completion_logprobs([entry for entry in scores if entry is not None], offsets[1:], table)
    start = {
        "tokens": [_key(prompt_ids[0], table)],
        "token_logprobs": [None],
        "top_logprobs": [None],
        "text_offset": offsets[:1],
    }
    return {key: start[key] + rest[key] for key in start}


def _offsets(token_ids: list[int], text: str, table: TokenTable) -> list[int]:
    """The character of `text` that each token's first byte belongs to."""
    stream, last, offsets = TextStream(table.shown_bytes), max(0, len(text) - 1), []
    for token_id in token_ids:
        offsets.append(min(stream.place_of(token_id), last))
        stream.push(token_id)
    return offsets


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
