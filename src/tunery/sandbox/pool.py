"""Graders' processes, kept warm: one takes the rows of one project's one source, and no other's.

A process that takes too long, says what is no reply or fills its folder is killed with all it holds, and the next row
begins another. Of all processes a project has half, so that a grader that waits for ever holds up its own rows alone.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tunery.domain.errors import InvalidRequest, Unavailable
from tunery.sandbox import walls
from tunery.sandbox.walls import Limits, NoSandbox
from tunery.texts import say

MAX_WAITING = 64  # rows, those that are graded included
MAX_WAITING_OF_ONE = 16  # of them those of one project
IDLE_S = 60.0  # a process without rows for so long is ended
START_S = 60.0  # a loaded machine starts an interpreter slowly
LOOK_EVERY_S = 0.5  # at how many files a process has made
RETRY = {"retry-after": "5"}


class GraderFailed(Exception):
    """The grader raised, never came to an end, or gave no number; the text is its traceback or says so."""


class SandboxFailed(Exception):
    """Something else than the grader went wrong; the text says what."""


@dataclass
class Worker:
    """One process, of one source."""

    key: tuple[str, str]
    process: asyncio.subprocess.Process
    limits: Limits
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    idle_since: float | None = None
    watching: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, key: tuple[str, str], source: str, limits: Limits) -> "Worker":
        """Raises GraderFailed for a source that gives no `grade`, SandboxFailed when no process begins."""
        beginning = asyncio.create_task(cls._begin(key, limits))
        try:
            worker = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # asyncio's own way out of a start ends the first process alone, then waits for a pipe that others hold.
            await (await beginning).kill()
            raise
        worker.watching = asyncio.create_task(worker._watch())
        try:
            reply = await worker._exchange(source, START_S + limits.seconds)
            if reply["problem"]:
                raise GraderFailed(str(reply["problem"]))
        except BaseException:
            await worker.kill()
            raise
        return worker

    @classmethod
    async def _begin(cls, key: tuple[str, str], limits: Limits) -> "Worker":
        with walls.open_filter() as filter_fd:
            process = await asyncio.create_subprocess_exec(
                *walls.command(filter_fd.fileno(), limits),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=[filter_fd.fileno()],
                env={},
                limit=limits.reply_bytes,
                start_new_session=True,  # a group of its own: see `_signal`
            )
        return cls(key, process, limits)

    async def grade(self, sample: Any, item: Any) -> float:
        """Raises GraderFailed; the process is good for the next row unless it `is_over`."""
        number = next(self.numbers)
        reply = await self._exchange({"n": number, "sample": sample, "item": item}, self.limits.seconds)
        score = reply.get("score")
        if reply.get("n") != number or not isinstance(score, float):
            raise GraderFailed("the grader wrote over its own replies")
        if reply.get("problem"):
            raise GraderFailed(str(reply["problem"]))
        return score

    async def _exchange(self, request: Any, seconds: float) -> dict[str, Any]:
        """A line out, a line back. Whatever is not that ends the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                with contextlib.suppress(ConnectionError):
                    await self.process.stdin.drain()
                line = await self.process.stdout.readline()
            if not line.endswith(b"\n"):
                raise GraderFailed("the grader's process ended: it left, or took more memory or files than there is")
            reply = json.loads(line)
            if not isinstance(reply, dict) or "problem" not in reply:
                raise ValueError("no reply")
            return reply
        except TimeoutError as exc:
            await self.kill()
            raise GraderFailed(f"the grader took longer than {self.limits.seconds:g} seconds") from exc
        except (ValueError, RecursionError) as exc:
            await self.kill()
            raise GraderFailed("the grader wrote over its own replies") from exc
        except BaseException:
            await self.kill()
            raise

    async def _watch(self) -> None:
        """Ends a process that nobody needs any more, and one that makes too many files: the folder's size bounds their
        bytes, but each takes memory of the kernel's."""
        root: Path | None = None
        while not self.is_over:
            await asyncio.sleep(LOOK_EVERY_S)
            with contextlib.suppress(OSError, psutil.Error):
                if root is None:
                    inner = psutil.Process(self.process.pid).children()
                    root = Path(f"/proc/{inner[0].pid}/root/tmp") if inner else None
                folder = os.statvfs(root) if root is not None else None
                too_many = folder is not None and folder.f_files - folder.f_ffree > self.limits.num_files
                unused = self.idle_since is not None and time.monotonic() > self.idle_since + IDLE_S
                if too_many or unused:
                    self._signal()

    @property
    def is_over(self) -> bool:
        return self.process.returncode is not None

    def _signal(self) -> None:
        """The group: bubblewrap forks, and until a child of its has asked to die with it, it would be left behind with
        the pipe in its hand. Not by `process.kill()`, which would take the end from asyncio's own watcher."""
        if not self.is_over:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """bubblewrap and, by the signal that it has asked the kernel for, what is inside: its pipe has ended then."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if self.watching is not None:
            self.watching.cancel()
        self._signal()
        self.process.stdin.close()
        while await self.process.stdout.read(self.limits.reply_bytes):
            pass
        await self.process.wait()


class Sandbox:
    """The processes of one server process. They start with the first row."""

    def __init__(self, limits: Limits | None = None, num_processes: int | None = None) -> None:
        self.limits = limits or Limits()
        self.num_processes = num_processes or _num_processes(self.limits)
        self._idle: list[Worker] = []  # the one that has waited longest is the first
        self._waiting: Counter[str] = Counter()  # rows, of each project
        self._places = asyncio.Semaphore(self.num_processes)
        self._num_placed = 0
        self._places_of: dict[str, asyncio.Semaphore] = {}

    async def check(self, source: str, *, project_id: str) -> None:
        """Raises GraderFailed for a source that gives no `grade`, and as `grade` does for the rest."""
        async with self._worker(source, project_id):
            pass

    async def grade(self, source: str, sample: Any, item: Any, *, project_id: str) -> float:
        """The number that the source's `grade(sample, item)` returns.

        Raises GraderFailed, SandboxFailed, InvalidRequest where there is no sandbox, Unavailable when too many wait.
        """
        async with self._worker(source, project_id) as worker:
            return await worker.grade(sample, item)

    @asynccontextmanager
    async def _worker(self, source: str, project_id: str) -> AsyncIterator[Worker]:
        if self._waiting.total() >= MAX_WAITING or self._waiting[project_id] >= MAX_WAITING_OF_ONE:
            raise Unavailable(say("error.too_many_graded"), headers=RETRY)
        self._waiting[project_id] += 1
        mine = self._places_of.setdefault(project_id, asyncio.Semaphore(max(1, self.num_processes // 2)))
        try:
            async with mine, self._places:
                self._num_placed += 1
                try:
                    worker = await self._take((project_id, hashlib.sha256(source.encode()).hexdigest()), source)
                    try:
                        yield worker
                    finally:
                        self._keep(worker)
                finally:
                    self._num_placed -= 1
        finally:
            self._waiting[project_id] -= 1
            self._waiting += Counter()  # forgets those that have none
            if not self._waiting[project_id]:
                self._places_of.pop(project_id, None)

    async def _take(self, key: tuple[str, str], source: str) -> Worker:
        """The warm process of this source, or a new one in the place of the one that has waited longest."""
        self._idle = [worker for worker in self._idle if not worker.is_over]
        for worker in self._idle:
            if worker.key == key:
                self._idle.remove(worker)
                worker.idle_since = None
                return worker
        while self._idle and len(self._idle) + self._num_placed > self.num_processes:
            await self._idle.pop(0).kill()
        await require_sandbox()
        try:
            return await Worker.start(key, source, self.limits)
        except (OSError, NoSandbox) as exc:
            raise SandboxFailed(str(exc)) from exc

    def _keep(self, worker: Worker) -> None:
        if not worker.is_over:
            worker.idle_since = time.monotonic()
            self._idle.append(worker)

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().kill()


async def require_sandbox() -> None:
    """Raises InvalidRequest, which says what to install, where strangers' Python cannot be shut in."""
    try:
        await asyncio.to_thread(walls.probe)
    except NoSandbox as exc:
        raise InvalidRequest(
            say("error.no_sandbox", reason=str(exc)), param="grader.type", code="unsupported_value"
        ) from exc


def _num_processes(limits: Limits) -> int:
    """As many as there are processors, and so few that at their limits they leave half of the memory."""
    fit = psutil.virtual_memory().total // 2 // (limits.memory_bytes + limits.disk_bytes)
    return max(2, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, fit))
