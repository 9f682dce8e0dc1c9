"""The worker's process: `python -m tunery.jobs`. Trains jobs and sends webhooks and mail until SIGTERM."""

import signal
import threading

from tunery import logs, private, tracing
from tunery.jobs.worker import Worker
from tunery.models.catalog import Catalog
from tunery.notify.dispatcher import Dispatcher
from tunery.settings import load_settings, told_in_a_sentence
from tunery.store.blobs import Blobs
from tunery.store.database import migrate, open_database


@told_in_a_sentence()
def main() -> None:
    settings = load_settings()
    private.keep(settings.home)
    logs.configure(settings.log_format)
    tracing.configure("tunery-worker")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    engine = open_database(settings)
    migrate(engine)
    worker = Worker(settings, engine, Blobs.open(settings), Catalog.load(settings.catalog))
    dispatcher = threading.Thread(target=Dispatcher(settings, engine).run, args=(stop,), name="dispatcher")
    dispatcher.start()
    worker.run(stop)
    dispatcher.join()


if __name__ == "__main__":  # a pool that validates large files imports this module again
    main()
