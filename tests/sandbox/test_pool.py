"""Graders that behave and graders that do not: each gets its answer, and the next one is not harmed."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable

import psutil
import pytest

from tests.loops import run
from tunery.domain.errors import InvalidRequest, Unavailable
from tunery.sandbox import walls
from tunery.sandbox.pool import MAX_WAITING_OF_ONE, GraderFailed, Sandbox, Worker
from tunery.sandbox.walls import Limits

GOOD = "def grade(sample, item): return 0.5"
SAMPLE, ITEM = {"output_text": "Paris"}, {"answer": "Paris"}


def in_sandbox(work: Callable[[Sandbox], Awaitable[object]], **limits: float) -> object:
    async def scenario() -> object:
        sandbox = Sandbox(Limits(**{"seconds": 60.0} | limits), 4)  # pyright: ignore[reportArgumentType]
        try:
            return await work(sandbox)
        finally:
            await sandbox.close()

    return run(scenario())


def graded(sandbox: Sandbox, source: str, project_id: str = "p") -> Awaitable[float]:
    return sandbox.grade(source, SAMPLE, ITEM, project_id=project_id)


SCORES = {
    "def grade(sample, item):\n    return sample['output_text'] == item['answer']": 1.0,
    "import numpy as np\ndef grade(sample, item): return np.float32(0.25)": 0.25,
    "import numpy as np\ndef grade(sample, item): return np.int64(3)": 3.0,
    "from rapidfuzz import fuzz\ndef grade(s, i): return fuzz.ratio(s['output_text'], 'paris') / 100": 0.8,
    "import tempfile, os\ndef grade(s, i):\n    with tempfile.TemporaryFile() as f: return f.write(b'abc')": 3.0,
    "if __name__ == '__main__':\n    raise SystemExit\ndef grade(s, i): return -1": -1.0,
    "import threading\ndef grade(s, i):\n    t = threading.Thread(target=int); t.start(); t.join(); return 2": 2.0,
    "print('hello')\ndef grade(s, i):\n    print('x' * 100_000); return 1.5": 1.5,
}
FAILURES = {
    "def grade(sample, item): raise ValueError('no')": r"(?s)line 1, in grade.*ValueError: no",
    "def grade(sample, item): return 'good'": "grade returned str, not a number",
    "def grade(sample, item): return None": "grade returned NoneType, not a number",
    "def grade(sample, item): return float('nan')": "not finite",
    "def grade(sample): return 1": "TypeError",
    "def score(sample, item): return 1": "no function `grade",
    "def grade(sample, item) return 1": "SyntaxError",
    "import nothing_of_that_name\ndef grade(s, i): return 1": "ModuleNotFoundError",
    "raise SystemExit(0)": "SystemExit",
    "import sys\ndef grade(s, i): sys.exit(0)": "SystemExit",
    "import os\ndef grade(s, i): os._exit(0)": "process ended",
    "import os\ndef grade(s, i): os.fork()": "PermissionError",
    "def grade(s, i): return grade(s, i)": "RecursionError",
    "def grade(s, i): return bytearray(3 << 30)": "MemoryError",
    "import socket\ndef grade(s, i): socket.create_connection(('127.0.0.1', 80))": "PermissionError|gaierror",
    "def grade(s, i): return open('/etc/passwd').read()": "FileNotFoundError",
    "import ctypes\ndef grade(s, i): return ctypes.string_at(0)": "process ended",
    "import os\ndef grade(s, i):\n    for fd in range(3, 20):\n        try: os.write(fd, b'[]\\n')\n"
    "        except OSError: pass\n    return 1": "wrote over",
    "import os\ndef grade(s, i):\n    for fd in range(3, 20):\n        try: os.write(fd, b'x' * 200_000)\n"
    "        except OSError: pass\n    return 1": "wrote over",
    "class E(Exception):\n    def __str__(self): raise E\ndef grade(s, i): raise E": "E",
}


@pytest.mark.timeout(200)
def test_scores() -> None:
    async def work(sandbox: Sandbox) -> None:
        for source, score in SCORES.items():
            assert await graded(sandbox, source) == score, source

    in_sandbox(work)


@pytest.mark.timeout(400)
def test_a_grader_that_cannot_grade_says_why_and_harms_nobody() -> None:
    async def work(sandbox: Sandbox) -> None:
        for source, problem in FAILURES.items():
            with pytest.raises(GraderFailed) as failed:
                await graded(sandbox, source)
            assert re.search(problem, str(failed.value)), (source, str(failed.value))
            assert len(str(failed.value)) < 5000 and "inside.py" not in str(failed.value)
            assert await graded(sandbox, GOOD, "other") == 0.5

    in_sandbox(work)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time; time.sleep(1e6)",
        "while True: print('x' * 1_000_000)",
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; [None for _ in iter(int, 1)]",
        "[(open(f'/tmp/{n}', 'w').close()) for n in range(10**9)]",
        "(2 ** 10**9) % 3; 9 ** 9 ** 9",
    ],
)
def test_a_grader_without_end_is_ended_with_all_it_holds(body: str) -> None:
    def of(pid: int) -> list[psutil.Process]:
        return psutil.Process(pid).children(recursive=True)

    async def work(sandbox: Sandbox) -> None:
        grading = asyncio.ensure_future(graded(sandbox, f"def grade(sample, item):\n    {body}"))
        with pytest.raises(GraderFailed, match=r"longer than|process ended"):
            await grading
        sandbox.limits = Limits(seconds=60.0)  # a loaded machine may take long for a good one, too
        assert await graded(sandbox, GOOD, "other") == 0.5
        await sandbox.close()
        assert not [process for process in of(psutil.Process().pid) if process.name() == "bwrap"]

    in_sandbox(work, seconds=2.0, num_files=2_000)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("turns", [1, 2, 3, 4, 6, 10, None])
def test_a_process_that_is_ended_while_it_begins_leaves_no_child_that_holds_its_pipe(
    turns: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bubblewrap forks before its child dies with it: on a loaded machine a start is given up just then, after a few
    turns of the loop, in which asyncio takes up one pipe after the other, or when its child is there."""
    sleep = ["sleep", str(random.randrange(10**6, 10**9))]  # found by its number also when its parent has ended
    monkeypatch.setattr(walls, "command", lambda fd, limits: ["sh", "-c", f"{' '.join(sleep)} & wait"])

    def children() -> list[psutil.Process]:
        return [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == sleep]

    async def scenario() -> None:
        start = asyncio.ensure_future(Worker.start(("p", "s"), GOOD, Limits()))
        for _ in range(turns or 0):
            await asyncio.sleep(0)
        while turns is None and not children():
            await asyncio.sleep(0.01)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert psutil.wait_procs(children(), timeout=30)[1] == []

    run(scenario())


@pytest.mark.timeout(200)
def test_rows_of_a_source_share_a_process_and_projects_never_do() -> None:
    source = "seen = []\ndef grade(sample, item):\n    seen.append(1)\n    return len(seen)"

    async def work(sandbox: Sandbox) -> None:
        assert [await graded(sandbox, source, "one") for _ in range(3)] == [1, 2, 3]
        assert await graded(sandbox, source, "two") == 1
        assert await graded(sandbox, source + "\n", "one") == 1

    in_sandbox(work)


@pytest.mark.timeout(200)
def test_what_one_project_waits_for_leaves_places_for_the_others() -> None:
    async def work(sandbox: Sandbox) -> None:
        slow = "import time\ndef grade(sample, item):\n    time.sleep(1e6)"
        many = [asyncio.ensure_future(graded(sandbox, slow, "greedy")) for _ in range(MAX_WAITING_OF_ONE)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await graded(sandbox, GOOD, "greedy")
        assert await graded(sandbox, GOOD, "other") == 0.5
        for one in many:
            one.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        assert await graded(sandbox, GOOD, "greedy") == 0.5

    in_sandbox(work)


@pytest.mark.parametrize("lacking", ["bubblewrap", "libseccomp", "namespaces"])
def test_where_there_is_no_sandbox_nothing_runs_and_the_error_says_what_to_install(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    walls.probe.cache_clear()
    if lacking == "bubblewrap":
        monkeypatch.setenv("PATH", "/nowhere")
    elif lacking == "libseccomp":
        monkeypatch.setattr("ctypes.CDLL", missing_library)
        walls.filter_program.cache_clear()
    else:
        monkeypatch.setattr(walls.shutil, "which", lambda _: "/bin/false")
    try:
        with pytest.raises(InvalidRequest, match="apt-get install bubblewrap"):
            in_sandbox(lambda sandbox: graded(sandbox, GOOD))
    finally:
        walls.probe.cache_clear()


def missing_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")
