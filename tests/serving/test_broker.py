"""Outputs on their way to requests: which of them are joined, and that nothing of them is lost."""

import asyncio
from math import inf
from pathlib import Path

import pytest

from tests.loops import run
from tests.serving.conftest import make_settings
from tests.serving.running import generation
from tunery.domain.errors import ServerFault
from tunery.serving.build import build_service
from tunery.serving.http.broker import _Inbox
from tunery.serving.requests import Generation, Output

NUM_TOKENS = 24


@pytest.mark.parametrize("every_s", [0.005, inf])
def test_joined_outputs_say_what_single_ones_do(tiny_model_dir: Path, every_s: float) -> None:
    asked = generation([5, 6, 7, 8], max_tokens=NUM_TOKENS, prompt_logprobs=0)
    single, joined = (run(outputs(tiny_model_dir, asked, each)) for each in (0.0, every_s))
    assert whole(joined) == whole(single)
    assert len(joined[-1].prompt_logprobs or ()) == 4
    if every_s == inf:
        assert len(joined) == 1


async def outputs(model_dir: Path, asked: Generation, every_s: float) -> list[Output]:
    service = build_service(make_settings(model_dir), asyncio.get_running_loop())
    service.engine.start()
    try:
        return [output async for output in service.broker.run(service.engine, [asked], every_s)]
    finally:
        await asyncio.to_thread(service.engine.stop)


def whole(outputs: list[Output]) -> tuple[str, list[int], list[int], int, str | None]:
    tokens = [entry.token_id for output in outputs for entry in output.logprobs]
    offsets = [offset for output in outputs for offset in output.offsets]
    assert len(tokens) == len(offsets) == NUM_TOKENS
    text = "".join(output.text for output in outputs)
    return text, tokens, offsets, outputs[-1].num_output_tokens, outputs[-1].finish_reason


def test_the_first_comes_at_once_and_so_does_the_end() -> None:
    async def look() -> None:
        inbox = _Inbox(asyncio.get_running_loop(), every_s=3600)
        inbox.put(Output("one", "a"))
        assert await inbox.take() == [Output("one", "a")]
        inbox.put(Output("one", "b"))
        inbox.put(Output("other", "x"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(inbox.take(), 0.05)
        inbox.put(Output("one", "c", finish_reason="stop"))
        assert await inbox.take() == [Output("one", "bc", finish_reason="stop"), Output("other", "x")]

    run(look())


def test_what_was_said_before_an_error_is_told() -> None:
    async def look() -> None:
        inbox = _Inbox(asyncio.get_running_loop(), every_s=3600)
        inbox.put(Output("one", "a"))
        await inbox.take()
        failed = Output("one", finish_reason="error", error=ServerFault("It broke."))
        for output in (Output("one", "b"), failed, Output("other", "x")):
            inbox.put(output)
        assert await inbox.take() == [Output("one", "b"), Output("other", "x"), failed]

    run(look())


def test_of_many_that_wait_one_is_kept() -> None:
    async def look() -> None:
        inbox = _Inbox(asyncio.get_running_loop(), every_s=inf)
        for _ in range(1000):
            inbox.put(Output("one", "a"))
        assert len(inbox._waiting["one"]) < 64
        inbox.put(Output("one", "b", finish_reason="stop"))
        assert await inbox.take() == [Output("one", "a" * 1000 + "b", finish_reason="stop")]

    run(look())


def test_what_waits_comes_when_it_is_due() -> None:
    async def look() -> None:
        inbox = _Inbox(asyncio.get_running_loop(), every_s=0.05)
        for text in "ab":
            inbox.put(Output("one", text))
            assert await asyncio.wait_for(inbox.take(), 60) == [Output("one", text)]

    run(look())
