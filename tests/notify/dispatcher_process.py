"""A dispatcher in a process of its own, to be killed."""

import threading

from tunery.notify.dispatcher import Dispatcher
from tunery.settings import load_settings
from tunery.store.database import connect

settings = load_settings()
Dispatcher(settings, connect(settings.resolved_database_url)).run(threading.Event())
