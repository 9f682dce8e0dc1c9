"""The trainer as a process: `python -m tunery.training.child <workdir>`.

Reads `spec.json`, goes on from `state/` when it is there, says what it does as JSON lines on stdout (reports.py), looks
at `control` between steps. Exit status 0 for finished and paused; 1 for failed; 75 when it was told to leave
and will be started again.
"""

import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from tunery import logs
from tunery.texts import reference, say
from tunery.training.reports import ParentGone, Report, own_stdout

EXIT_FAILED = 1
EXIT_LEFT = 75

log = logging.getLogger("tunery.training")


def main(arguments: list[str]) -> int:
    workdir = Path(arguments[0]).resolve()
    logs.configure("text")
    report = own_stdout()
    # The math library's threads would spin while they wait for each other. On a machine whose cores are busy with the
    # engine and the api, that is what all the time goes to: steps took twenty times as long. Threads that
    # never spin lose a seventh on an idle machine. 2,000 turns, some 20 microseconds, cost as much on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        # torch takes seconds to import: from here on every failure is reported.
        from tunery.training.job import run

        return {"left": EXIT_LEFT}.get(run(workdir, report), 0)
    except ParentGone:
        log.warning("the parent is gone; the state stays for the next start")
        return EXIT_LEFT
    except Exception as exc:
        log.exception("the job failed")
        return _fail(exc, report)


def _fail(exc: Exception, report: Report) -> int:
    failure = failure_of(exc)
    try:
        report({"type": "failed", **failure})
    except ParentGone:
        log.warning("nobody was there to hear: %s", json.dumps(failure))
    return EXIT_FAILED


def failure_of(exc: Exception) -> dict[str, Any]:
    """`code`, `message` and `param` for the job's owner. Nothing of a traceback, and no text of theirs."""
    name = type(exc).__name__
    if is_disk_full(exc):
        return _failure("disk_full", say("event.disk_full"))
    if name in _CODES:
        message = exc.args[0] if exc.args and isinstance(exc.args[0], str) else str(exc)
        return _failure(_CODES[name], message, getattr(exc, "param", None))
    return _failure("server_error", say("event.trainer_error", name=name))


def _failure(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "text": reference(message)}


# By name: their modules import torch, and a failure to import torch must be reportable too.
_CODES = {
    "UnusableFile": "invalid_training_file",
    "UnsupportedModel": "model_not_trainable",
    "UnsupportedAdapter": "model_not_trainable",
    "Diverged": "training_diverged",
    "OutOfMemory": "out_of_memory",
}


def is_disk_full(exc: BaseException) -> bool:
    """safetensors wraps the system's error in one of its own, so its text decides."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(exc, "errno", None) in full or any(f"os error {number}" in str(exc) for number in full)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    # Threads of the math libraries can hang an orderly exit; everything is on disk.
    os._exit(status)
