"""What runs in a sandbox: takes one grader's source, then rows, and answers each with a score or why there is none.

It stands apart because no other file of ours can be read in there: it imports the standard library alone. Requests and
replies are a line of JSON each.
"""

import contextlib
import json
import linecache
import math
import numbers
import os
import resource
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

MAX_DETAILS = 4000  # characters of a traceback, of which the end says most
SOURCE = "grader.py"


def main() -> None:
    limits = json.loads(sys.argv[1])
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):  # what a grader prints is read by nobody
        os.dup2(nothing, fd)
    give_up(limits)
    sys.path.insert(0, limits["packages"])
    grade, problem = load(json.loads(requests.readline()))
    send(replies, {"n": 0, "problem": problem})
    for line in requests:
        row = json.loads(line)
        score, problem = run(grade, row["sample"], row["item"])
        send(replies, {"n": row["n"], "score": score, "problem": problem})


def give_up(limits: dict[str, Any]) -> None:
    """Root, where the server is that, and all but so much of everything that is counted. For good."""
    if limits["user"] is not None:
        os.setgroups([])
        os.setresgid(limits["user"], limits["user"], limits["user"])
        os.setresuid(limits["user"], limits["user"], limits["user"])
    for name, most in (
        ("AS", limits["memory_bytes"]),
        ("FSIZE", limits["disk_bytes"]),
        ("NPROC", limits["num_threads"]),
        ("NOFILE", 64),
        ("SIGPENDING", 64),
        ("MEMLOCK", 0),
        ("CORE", 0),
    ):
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            resource.setrlimit(number, (most, most))


def load(source: str) -> tuple[Callable[..., Any] | None, str | None]:
    """The source's `grade`, or why there is none."""
    module = types.ModuleType("grader")
    sys.modules["grader"] = module
    linecache.cache[SOURCE] = (len(source), None, [line + "\n" for line in source.split("\n")], SOURCE)
    try:
        exec(compile(source, SOURCE, "exec"), module.__dict__)  # noqa: S102  what all the walls are for
    except BaseException as exc:
        return None, told(exc)
    grade = module.__dict__.get("grade")
    return (grade, None) if callable(grade) else (None, "the source defines no function `grade(sample, item)`")


def run(grade: Callable[..., Any] | None, sample: Any, item: Any) -> tuple[float, str | None]:
    if grade is None:
        return 0.0, "the source defines no function `grade(sample, item)`"
    try:
        result = grade(sample, item)
        if not isinstance(result, numbers.Real):
            return 0.0, f"grade returned {type(result).__name__}, not a number"
        score = float(result)
    except BaseException as exc:
        return 0.0, told(exc)
    return (score, None) if math.isfinite(score) else (0.0, f"grade returned {score}, which is not finite")


def told(exc: BaseException) -> str:
    """The traceback from the grader's own first line on."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    with contextlib.suppress(BaseException):  # an exception's own text may raise, and memory may have ended
        return "".join(traceback.format_exception(type(exc), exc, frame))[-MAX_DETAILS:]
    return type(exc).__name__


def send(replies: Any, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
