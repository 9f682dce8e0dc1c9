"""Texts in, vectors out, in vLLM's dialect. Between two steps of the engine one piece of one request is computed: who
generates waits for a few milliseconds at most, and requests of one priority take turns."""

import asyncio
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tunery.domain.errors import InvalidRequest, no_such_model
from tunery.domain.ids import new_id
from tunery.serving.http.broker import Load, engine_down
from tunery.serving.http.schemas import EmbeddingRequest
from tunery.texts import say

if TYPE_CHECKING:  # torch, which a process that only passes requests on does without
    import torch

    from tunery.serving.embeddings import EmbeddingModel
    from tunery.serving.engine import Engine

# OpenAI's limits of a text and of a request.
MAX_INPUT_TOKENS = 8192
MAX_REQUEST_TOKENS = 300_000
# Texts with longer tokens on average are refused before they are read: a thousand letters without a space may be one
# unknown word, and spaces none, but to find that out takes as long as for any text.
CHARACTERS_A_TOKEN = 8
PIECE_TOKENS = 256  # computed between two steps


@dataclass
class _Text:
    windows: list[list[int]]
    vectors: "list[torch.Tensor]"

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.windows[: len(self.vectors)]))


class Embeddings:
    def __init__(
        self, engine: "Engine", names: tuple[str, ...], fetch: "Callable[[str], EmbeddingModel]", load: Load
    ) -> None:
        """`names`: of the models; `fetch` gives the one of a name, and may take long: called once, when it is asked;
        `load`: of the process."""
        self.names, self._load = names, load
        self._engine = engine
        self._fetch = fetch
        self._models: dict[str, EmbeddingModel] = {}
        self._loading = asyncio.Lock()
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)  # of each priority
        self._running: dict[str, asyncio.Event] = {}  # by request id; set: it is to end now

    def abort(self, request_id: str) -> bool:
        """End a request early: its answer has no vectors, and the usage until then. False when no such request runs."""
        event = self._running.get(request_id)
        if event is not None:
            event.set()
        return event is not None

    async def answer(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Raises InvalidRequest for texts that are too long, no_such_model, Unavailable when the engine has died or the
        model cannot be fetched."""
        if request.model not in self.names:
            raise no_such_model(request.model)
        given = [request.input] if isinstance(request.input, str) else request.input
        _check_characters(given)
        model = await self._model(request.model)
        texts = [_Text(windows, []) for windows in await asyncio.to_thread(model.windows, given)]
        _check_tokens([sum(map(len, text.windows)) for text in texts])
        request_id = request.request_id or new_id("embedding")
        stop = self._running[request_id] = asyncio.Event()
        try:
            with self._load.request():
                for piece in _pieces(texts):
                    if stop.is_set():
                        break
                    await self._compute(model, piece, request.priority)
        finally:
            del self._running[request_id]
        num_tokens = sum(text.num_tokens for text in texts)
        self._engine.metrics.prompt_tokens.inc(num_tokens)
        vectors = [] if stop.is_set() else [model.join(text.windows, text.vectors) for text in texts]
        return {
            "id": request_id,
            "object": "list",
            "model": request.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": _written(vector, request.encoding_format)}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }

    async def _model(self, name: str) -> "EmbeddingModel":
        if name not in self._models:  # who asks for another one does not wait until this is fetched
            async with self._loading:
                if name not in self._models:
                    self._models[name] = await asyncio.to_thread(self._fetch, name)
        return self._models[name]

    async def _compute(self, model: "EmbeddingModel", piece: list[tuple[_Text, list[int]]], priority: int) -> None:
        async with self._turns[priority]:
            if not self._engine.is_alive:
                raise engine_down()
            work = partial(_pool_all, model, [window for _, window in piece])
            found = await asyncio.wrap_future(self._engine.compute(work, priority))
        for (text, _), vector in zip(piece, found, strict=True):
            text.vectors.append(vector)


def _pool_all(model: "EmbeddingModel", windows: list[list[int]]) -> "list[torch.Tensor]":
    """[E] of each window."""
    return [model.pool(window) for window in windows]


def _pieces(texts: list[_Text]) -> Iterator[list[tuple[_Text, list[int]]]]:
    """All windows in order, as many at a time as have PIECE_TOKENS together."""
    piece: list[tuple[_Text, list[int]]] = []
    num_tokens = 0
    for text in texts:
        for window in text.windows:
            if piece and num_tokens + len(window) > PIECE_TOKENS:
                yield piece
                piece, num_tokens = [], 0
            piece.append((text, window))
            num_tokens += len(window)
    if piece:
        yield piece


def _check_characters(texts: list[str]) -> None:
    for index, text in enumerate(texts):
        if len(text) > MAX_INPUT_TOKENS * CHARACTERS_A_TOKEN:
            raise _too_long(index)
    if (total := sum(map(len, texts))) > MAX_REQUEST_TOKENS * CHARACTERS_A_TOKEN:
        raise _too_many(total // CHARACTERS_A_TOKEN)


def _check_tokens(counts: list[int]) -> None:
    for index, count in enumerate(counts):
        if count > MAX_INPUT_TOKENS:
            raise _too_long(index)
    if sum(counts) > MAX_REQUEST_TOKENS:
        raise _too_many(sum(counts))


def _too_long(index: int) -> InvalidRequest:
    param = f"input[{index}]"
    return InvalidRequest(say("error.input_too_long", param=param, most=MAX_INPUT_TOKENS), param="input")


def _too_many(num_tokens: int) -> InvalidRequest:
    message = say("error.too_many_input_tokens", num_tokens=num_tokens, most=MAX_REQUEST_TOKENS)
    return InvalidRequest(message, type="max_tokens_per_request", code="max_tokens_per_request")


def _written(vector: "torch.Tensor", encoding_format: str) -> str | list[float]:
    """vector [E]; in base64 as 32-bit floats, little-endian."""
    if encoding_format == "float":
        return vector.tolist()
    return b64encode(vector.numpy().astype("<f4").tobytes()).decode()
