"""An engine without its HTTP face: generations in, outputs out."""

import asyncio
from itertools import count
from queue import SimpleQueue
from typing import Any, Self

from tunery.serving.blocks import BlockPool
from tunery.serving.build import build_service
from tunery.serving.requests import Generation, Output, SamplingParams
from tunery.serving.settings import EngineSettings

_numbers = count()


def generation(prompt_ids: list[int], *, adapter: str | None = None, salt: str = "", **params: Any) -> Generation:
    """A greedy one of eight tokens that does not stop by itself, unless said otherwise."""
    values = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, "top_logprobs": 0, **params}
    return Generation(f"g{next(_numbers)}", prompt_ids, SamplingParams(**values), adapter, salt)


class LocalEngine:
    def __init__(self, settings: EngineSettings, *, num_blocks: int | None = None) -> None:
        """`num_blocks`: fewer than the model's context needs, to have them run out."""
        self._loop = asyncio.new_event_loop()
        self.service = build_service(settings, self._loop)
        self.engine = self.service.engine
        self.scheduler = self.engine._scheduler
        if num_blocks is not None:
            self.scheduler.blocks = BlockPool(num_blocks, settings.block_size)
        self._outputs: SimpleQueue[Output] = SimpleQueue()
        self.engine._sink = self._receive
        self.seen: dict[str, list[Output]] = {}

    def _receive(self, outputs: list[Output]) -> None:
        self.scheduler.check()
        for output in outputs:
            self._outputs.put(output)

    def __enter__(self) -> Self:
        self.engine.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.stop()
        self._loop.close()

    def next_output(self) -> Output:
        output = self._outputs.get(timeout=60)
        self.seen.setdefault(output.id, []).append(output)
        return output

    def finish(self, generations: list[Generation]) -> list[list[Output]]:
        """Wait until each has ended; the outputs of each in order."""
        open_ids = {generation.id for generation in generations}
        open_ids -= {name for name, outputs in self.seen.items() if outputs[-1].finish_reason is not None}
        while open_ids:
            output = self.next_output()
            if output.finish_reason is not None:
                open_ids.discard(output.id)
        return [self.seen[generation.id] for generation in generations]

    def run(self, *generations: Generation) -> list[list[Output]]:
        self.engine.submit(list(generations))
        return self.finish(list(generations))


def tokens(outputs: list[Output]) -> list[int]:
    return [entry.token_id for output in outputs for entry in output.logprobs]
