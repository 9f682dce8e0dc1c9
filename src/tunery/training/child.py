"""The trainer as a process: `python -m tunery.training.child <workdir>`.

Reads `spec.json`, goes on from `state/` when it is there, says what it does as lines of the protocol on stdout, and
looks for what is asked of it between micro-batches. Exit status 0 for finished and paused; 1 for failed; 75 when it was
told to leave and will be started again.
"""

import json
import logging
import os
import sys
from pathlib import Path

from tunery import logs
from tunery.atomic import is_disk_full
from tunery.texts import say
from tunery.training.protocol import Failed, FailureCode, Message, Report, TrainingFailure, Workdir, encode

EXIT_FAILED = 1
EXIT_LEFT = 75

log = logging.getLogger("tunery.training")


class ParentGone(Exception):
    """Nobody reads any more."""


def main(arguments: list[str]) -> int:
    """The exit status, which also says what ParentGone or a failure of the job ended in."""
    workdir = Workdir(Path(arguments[0]).resolve())
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

        return EXIT_LEFT if run(workdir, report) == "left" else 0
    except ParentGone:
        log.warning("the parent is gone; the state stays for the next start")
        return EXIT_LEFT
    except Exception as exc:
        log.exception("the job failed")
        return _fail(exc, report)


def own_stdout() -> Report:
    """Take stdout for messages alone: whatever a library prints goes to the log instead. What it gives raises
    ParentGone when nobody reads any more."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def report(message: Message) -> None:
        try:
            channel.write(encode(message))
            channel.flush()
        except BrokenPipeError as exc:
            raise ParentGone from exc

    return report


def _fail(exc: Exception, report: Report) -> int:
    failed = failure_of(exc)
    try:
        report(failed)
    except ParentGone:
        log.warning("nobody was there to hear: %s: %s", failed.code, json.dumps(failed.message))
    return EXIT_FAILED


def failure_of(exc: Exception) -> Failed:
    """For the job's owner. Nothing of a traceback, and no text of theirs."""
    if is_disk_full(exc):
        return Failed.of(FailureCode.DISK_FULL, say("event.disk_full"))
    if isinstance(exc, TrainingFailure):
        return Failed.of(exc.failure, exc.message, exc.param)
    return Failed.of(FailureCode.SERVER_ERROR, say("event.trainer_error", name=type(exc).__name__))


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    # Threads of the math libraries can hang an orderly exit; everything is on disk.
    os._exit(status)
