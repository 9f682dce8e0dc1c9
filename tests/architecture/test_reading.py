"""How many files one has to read to follow one act from end to end: counted where it really runs."""

import dis
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any

import pytest

from tests.api.conftest import BASE, Api, engine_url, fresh_database, make_api  # noqa: F401  fixtures
from tests.architecture.imports import SOURCE
from tests.jobs.conftest import Site, base_settings, migrated_database, site  # noqa: F401  fixtures
from tests.jobs.test_worker import SCRIPTED
from tunery.domain.jobs import JobStatus
from tunery.jobs.attempt import Attempt
from tunery.jobs.worker import Worker

# What every request passes, whatever it asks for: its headers, whose key it has, and the reading of its body.
DOOR = {
    *("api/middleware.py", "api/metrics.py", "api/refusals.py"),
    *("api/routing.py", "api/access.py", "api/body.py", "api/context.py"),
}


class Files:
    """The files of these packages in which a function begins while it is on, in threads begun since. What runs on in
    the background began before."""

    def __init__(self, *packages: str) -> None:
        self.found: set[str] = set()
        self.is_on = False
        self._folders = tuple(f"{SOURCE / package}/" for package in packages)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if not self.is_on or event != "call" or not frame.f_code.co_filename.startswith(self._folders):
            return
        if frame.f_lasti <= first_instruction(frame.f_code):
            self.found.add(frame.f_code.co_filename.removeprefix(f"{SOURCE}/"))

    @contextmanager
    def on(self) -> Iterator[set[str]]:
        self.found, self.is_on = set(), True
        yield self.found
        self.is_on = False


@cache
def first_instruction(code: CodeType) -> int:
    """Where a function begins; a coroutine that was waiting goes on behind it."""
    return next(each.offset for each in dis.get_instructions(code) if each.opname == "RESUME")


@pytest.fixture
def profile() -> Iterator[Callable[[Files], None]]:
    yield threading.setprofile
    threading.setprofile(None)


@pytest.fixture
def files(profile: Callable[[Any], None]) -> Files:
    found = Files("api", "engines", "wire")
    profile(found)
    return found


def test_a_chat_completion_is_read_in_seven_files(files: Files, make_api: Callable[..., Api], engine_url: str) -> None:  # noqa: F811
    """Whole, as a stream, with legacy functions, kept, and a legacy completion, from the first request on."""
    api = make_api(engine_urls=[engine_url])
    asked = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    called = {"functions": [{"name": "f", "parameters": {"type": "object"}}]}
    with files.on() as read:
        for more in ({}, {"stream": True}, called, called | {"stream": True}, {"store": True}):
            assert api.client.post("/v1/chat/completions", json=asked | more).status_code == 200
        assert api.client.post("/v1/completions", json={"model": BASE, "prompt": "Hi"}).status_code == 200
    assert {"api/chat/routes.py", "api/inference.py", "engines/pool.py", "wire/chat.py"} <= read
    assert len(read - DOOR) <= 7, sorted(read - DOOR)


def test_the_door_is_what_every_request_passes(files: Files, make_api: Callable[..., Api]) -> None:  # noqa: F811
    """So that nothing of a completion is left out of its count under this name."""
    api = make_api()
    with files.on() as read:
        upload = {"filename": "x", "purpose": "fine-tune", "bytes": 9, "mime_type": "text/jsonl"}
        assert api.client.post("/v1/uploads", json=upload).status_code == 200
    assert read >= DOOR


class FilesOfAttempt(Files):
    """On while a job is attempted; the worker's loop, which goes on beside it, is left out."""

    def __init__(self) -> None:
        super().__init__("jobs")
        self._loop: int | None = None

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code is Worker.run.__code__:
            self._loop = threading.get_ident()
        if frame.f_code is Attempt.run.__code__ and event in ("call", "return"):
            self.is_on = event == "call"
        if threading.get_ident() != self._loop:
            super().__call__(frame, event, _)


def test_an_attempt_at_a_job_is_read_in_five_files(profile: Callable[[Any], None], site: Site) -> None:  # noqa: F811
    """Besides `training/protocol.py`, in which the trainer's words are."""
    files = FilesOfAttempt()
    profile(files)
    job = site.create()
    with site.worker(SCRIPTED):
        assert site.wait(job.id).status is JobStatus.SUCCEEDED
    assert {"jobs/attempt.py", "jobs/endings.py", "jobs/recorder.py"} <= files.found
    assert len(files.found) <= 5, sorted(files.found)
