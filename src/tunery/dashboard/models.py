"""Which models there are, and what they cost, as the pages need it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from openai.types import CompletionUsage

from tunery.dashboard.connection import Connection
from tunery.dashboard.visit import BASE

MAX_NAMES = 100  # that the server takes at once


@dataclass(frozen=True)
class Model:
    name: str
    kind: str  # base, fine-tuned, embedding
    base: str
    training: bool
    context_length: int
    max_example_tokens: int
    display_name: str | None
    job_id: str | None
    created_at: int | None  # of a tuned one
    weights: dict[str, Any]  # name, source, adapter
    answered_by: dict[str, Any] | None  # weights: the project's alias of this name leads to them
    aliases: list[str]
    same_weights: list[str]  # other names for them
    learned_from: list[dict[str, Any]]  # files: id, sha256
    price: dict[str, Any] | None  # per million tokens: training, input, cached_input, output, currency

    def cost(self, usage: CompletionUsage) -> float | None:
        """Of one answer, in the price's currency."""
        cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
        return self.cost_of(usage.prompt_tokens, cached, usage.completion_tokens)

    def cost_of(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float | None:
        if self.price is None:
            return None
        total = (prompt_tokens - cached_tokens) * self.price["input"] + cached_tokens * self.price["cached_input"]
        return (total + completion_tokens * self.price["output"]) / 1e6

    def learned(self, file: dict[str, Any]) -> bool:
        """Whether it was trained on this file, or on one with the same content."""
        return any(file["id"] == known["id"] or file["sha256"] == known["sha256"] for known in self.learned_from)

    @property
    def answering(self) -> dict[str, Any]:
        """The weights that answer to the name."""
        return self.answered_by or self.weights

    @property
    def currency(self) -> str:
        return self.price["currency"] if self.price else "usd"


async def list_models(connection: Connection, *, search: str = "", limit: int | None = None) -> list[Model]:
    """What answers in words: own fine-tunes first, newest first and `limit` of them, then the bases."""
    models = [model for model in await every_model(connection, search, limit) if model.kind != "embedding"]
    return sorted(models, key=lambda model: model.kind == "base")


async def every_model(connection: Connection, search: str = "", limit: int | None = None) -> list[Model]:
    """Those that give embeddings, too."""
    return _models(await connection.get("/tunery/v1/catalog", search=search, limit=limit))


async def models_named(connection: Connection, names: Iterable[str]) -> dict[str, Model]:
    """Those that the names or aliases lead to, by all their names. Nothing is asked where there is no name."""
    wanted = sorted(set(names))
    asked = (wanted[start : start + MAX_NAMES] for start in range(0, len(wanted), MAX_NAMES))
    pages = await asyncio.gather(*(connection.get("/tunery/v1/catalog", names=some) for some in asked))
    return {name: model for page in pages for model in _models(page) for name in (*model.aliases, model.name)}


def _models(catalog: dict[str, Any]) -> list[Model]:
    names = Model.__dataclass_fields__
    return [Model(**{name: entry[name] for name in names}) for entry in catalog["data"]]


def trainable(models: list[Model]) -> list[Model]:
    """Bases first: most jobs start from one."""
    return sorted((model for model in models if model.training), key=lambda model: model.kind != "base")


def playground_path(*names: str) -> str:
    return f"{BASE}/playground?models={quote('|'.join(names), safe='')}"
