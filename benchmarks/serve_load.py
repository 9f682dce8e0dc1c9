"""A streaming load generator: as many requests at once as asked for, each timed from its first byte to its last.

Speaks HTTP over plain sockets, because on two cores a comfortable client costs as much as the server.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    ttft_s: float
    duration_s: float
    num_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True)
class Load:
    """What a set of answers, asked for at the same time, came to."""

    answers: list[Answer]
    duration_s: float

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.num_tokens for answer in self.answers) / self.duration_s

    @property
    def ttft_p50_s(self) -> float:
        return median(answer.ttft_s for answer in self.answers)

    @property
    def ttft_p95_s(self) -> float:
        ordered = sorted(answer.ttft_s for answer in self.answers)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


async def ask(url: str, body: dict[str, Any], key: str = "") -> Answer:
    """`key`: of an api; an engine wants none."""
    address = urlsplit(url)
    started_at = time.perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    payload = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
        % (key.encode(), len(payload), payload)
    )
    first_at, usage, num_events = None, {}, 0
    async for line in reader:
        if not line.startswith(b"data: {"):
            if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                raise RuntimeError(f"{url} answered {line!r}: {(await reader.read())[:500]!r}")
            continue
        num_events += 1
        if first_at is None and b'"content":"' in line and b'"content":""' not in line:
            first_at = time.perf_counter()
        if b'"usage":{' in line:
            usage = json.loads(line[6:])["usage"]
    writer.close()
    ended_at = time.perf_counter()
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        (first_at or ended_at) - started_at,
        ended_at - started_at,
        usage.get("completion_tokens", num_events),
        details.get("cached_tokens", 0),
    )


async def together(url: str, bodies: list[dict[str, Any]]) -> Load:
    started_at = time.perf_counter()
    answers = await asyncio.gather(*(ask(url, body) for body in bodies))
    return Load(list(answers), time.perf_counter() - started_at)


def run(url: str, bodies: list[dict[str, Any]]) -> Load:
    return asyncio.run(together(url, bodies))
