"""What `serve.py` asks of both servers."""

from dataclasses import dataclass
from typing import Any

WORDS = (
    "river", "stone", "window", "garden", "music", "winter", "paper", "silver",
    "harbour", "lantern", "meadow", "copper", "violet", "engine", "bridge", "cloud",
)  # fmt: skip
SYSTEM = "You are a careful assistant for a shop that sells tools. Answer in one paragraph. " + " ".join(
    f"Rule {n}: always mention the {WORDS[n % 16]} before the {WORDS[(n * 7 + 3) % 16]} when a customer asks."
    for n in range(28)
)
MOST_STREAMS, MOST_TAKES = 100, 10  # so that every prompt of every take has a number of its own


def body(number: int, *, model: str = "base", tokens: int = 64, system: str | None = None) -> dict[str, Any]:
    """A greedy request that runs to its full length. No two numbers' prompts begin alike."""
    topic = " ".join(WORDS[(number * 5 + i * (number % 7 + 1)) % 16] for i in range(8))
    messages = [{"role": "user", "content": f"Request {number}: write a long story about {topic}."}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}


@dataclass(frozen=True)
class Case:
    name: str
    first: int  # number of its prompts
    streams: int
    num_adapters: int = 0  # that ours uses; the peer answers with its base
    tokens: int = 64
    system: str | None = None

    def ours(self, take: int) -> list[dict[str, Any]]:
        models = [f"a{n % self.num_adapters}" if self.num_adapters else "base" for n in range(self.streams)]
        return self._bodies(take, models)

    def peers(self, take: int) -> list[dict[str, Any]]:
        return self._bodies(take, ["base"] * self.streams)

    def _bodies(self, take: int, models: list[str]) -> list[dict[str, Any]]:
        first = self.first + take * MOST_STREAMS
        return [body(first + n, model=model, tokens=self.tokens, system=self.system) for n, model in enumerate(models)]


def cases(streams: list[int]) -> list[Case]:
    shapes: list[tuple[str, dict[str, Any]]] = [
        *((f"{count} streams, one model", {"streams": count}) for count in streams),
        ("16 streams, 8 adapters (peer: one model)", {"streams": 16, "num_adapters": 8}),
        ("1 stream, its adapter (peer: no adapter)", {"streams": 1, "num_adapters": 1}),
        ("16 streams, shared system prompt", {"streams": 16, "tokens": 32, "system": SYSTEM}),
    ]
    apart = MOST_STREAMS * MOST_TAKES
    return [Case(name, index * apart, **shape) for index, (name, shape) in enumerate(shapes)]
