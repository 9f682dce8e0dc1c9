"""The worker's process: `python -m tunery.launch.worker`. Trains jobs, answers batches, runs evals, exports and imports
models, sends webhooks and mail until SIGTERM.

Apart because it is a process of its own.
"""

import os
import signal
import subprocess
import sys
import threading

from tunery import logs, private, tracing
from tunery.jobs.identity import this_worker
from tunery.jobs.worker import Worker
from tunery.models.catalog import Catalog
from tunery.notify.dispatcher import Dispatcher
from tunery.settings import load_settings, told_in_a_sentence
from tunery.store.blobs import Blobs
from tunery.store.database import migrate, open_database


@told_in_a_sentence()
def main() -> None:
    # Imported late: the processes that import this module again do not need the web framework behind it.
    from tunery.api.batches.runner import BatchWork
    from tunery.api.context import Context
    from tunery.api.evals.runner import RunWork
    from tunery.api.leased import LeasedRunner
    from tunery.api.tunery.transfers.runner import TransferRunner
    from tunery.domain.transfers import KINDS

    settings = load_settings()
    private.keep(settings.home)
    logs.configure(settings.log_format)
    tracing.configure("tunery-worker")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    engine = open_database(settings)
    migrate(engine)
    identity = this_worker()
    worker = Worker(settings, engine, Blobs.open(settings), Catalog.of(settings), identity=identity)
    context = Context.open(settings)
    transfers = [TransferRunner(context, identity, kind) for kind in KINDS]
    answering = LeasedRunner(context, identity, (BatchWork, RunWork))
    besides = (Dispatcher(settings, engine), answering, *transfers)
    beside = [*(each.run for each in besides), _warm_up]
    threads = [threading.Thread(target=run, args=(stop,), name=run.__qualname__) for run in beside]
    for thread in threads:
        thread.start()
    worker.run(stop)
    for thread in threads:
        thread.join()


def _warm_up(stop: threading.Event) -> None:
    """So that a first job need not wait for the trainer's loops to be compiled."""
    command = [sys.executable, "-m", "tunery.launch.tether", str(os.getpid()), "tunery.training.warm_up"]
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None and not stop.wait(1):
            pass
        process.terminate()


if __name__ == "__main__":  # a pool that validates large files imports this module again
    main()
