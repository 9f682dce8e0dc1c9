"""A dispatcher in a process of its own, to be killed."""

import threading

from tunery.notify.dispatcher import Dispatcher
from tunery.settings import load_settings
from tunery.store.database import open_database

settings = load_settings()
Dispatcher(settings, open_database(settings)).run(threading.Event())
