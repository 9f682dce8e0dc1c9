"""Time as a value that is handed in, so that tests can hold it."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns Unix seconds."""

system_clock: Clock = time.time
