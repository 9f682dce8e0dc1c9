"""Brings the engine's outputs from its thread into the event loop, to the request they belong to."""

import asyncio
from collections.abc import AsyncIterator

from tunery.domain.errors import InvalidRequest, ServerFault, Unavailable
from tunery.serving.engine import Engine
from tunery.serving.requests import Generation, Output


class Broker:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inboxes: dict[str, asyncio.Queue[Output]] = {}

    def sink(self, outputs: list[Output]) -> None:
        """In the engine's thread: one wake-up of the loop for all outputs of a step."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, outputs)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            inbox = self._inboxes.get(output.id)
            if inbox is not None:
                inbox.put_nowait(output)

    async def run(self, engine: Engine, generations: list[Generation]) -> AsyncIterator[Output]:
        """Outputs of all generations as they come, until each has finished.

        Whoever stops listening, because its client has gone, aborts what still runs. Raises Unavailable when the
        engine has died and ServerFault when it gave up on a sequence.
        """
        if not engine.is_alive:
            raise engine_down()
        inbox: asyncio.Queue[Output] = asyncio.Queue()
        open_ids = {generation.id for generation in generations}
        self._inboxes.update(dict.fromkeys(open_ids, inbox))
        try:
            engine.submit(generations)
            while open_ids:
                output = await inbox.get()
                if output.error is not None:
                    raise engine_down() if not engine.is_alive else ServerFault(output.error)
                if output.finish_reason is not None:
                    open_ids.discard(output.id)
                yield output
        finally:
            for generation in generations:
                self._inboxes.pop(generation.id, None)
            if open_ids:
                engine.abort(list(open_ids))


def engine_down() -> Unavailable:
    return Unavailable(
        "The engine is not running. Try again in a moment.", code="server_is_overloaded", headers={"Retry-After": "2"}
    )


def check_length(num_prompt: int, max_tokens: int | None, context_length: int, *, param: str) -> int:
    """How many tokens may be drawn. Raises InvalidRequest `context_length_exceeded` in OpenAI's words."""
    limit = f"This model's maximum context length is {context_length} tokens. However, "
    if num_prompt >= context_length:
        raise InvalidRequest(
            f"{limit}your {param} resulted in {num_prompt} tokens. Please reduce the length of the {param}.",
            param=param,
            code="context_length_exceeded",
        )
    if max_tokens is None:
        return context_length - num_prompt
    if num_prompt + max_tokens > context_length:
        raise InvalidRequest(
            f"{limit}you requested {num_prompt + max_tokens} tokens ({num_prompt} in the {param}, {max_tokens} in the "
            f"completion). Please reduce the length of the {param} or completion.",
            param=param,
            code="context_length_exceeded",
        )
    return max_tokens
