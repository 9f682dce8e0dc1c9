"""The worker's process with the scripted trainer in the real one's place."""

import signal
import sys
import threading
from pathlib import Path

from tunery.jobs.hold import ProcessRunner
from tunery.jobs.worker import Worker
from tunery.models.catalog import Catalog
from tunery.settings import load_settings
from tunery.store.blobs import Blobs
from tunery.store.database import open_database

settings = load_settings()
blobs = Blobs.open(settings)
scripted = (sys.executable, str(Path(__file__).parent / "scripted_trainer.py"))
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
worker = Worker(
    settings,
    open_database(settings),
    blobs,
    Catalog.load(settings.catalog),
    runner=ProcessRunner(blobs, settings.models_dir, scripted),
)
worker.run(stop)
