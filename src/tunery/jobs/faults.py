"""What went wrong, as far as a signal, an exit status or an error's text tells."""

import signal

import httpx
from obstore.exceptions import BaseError
from sqlalchemy.exc import DBAPIError

from tunery.texts import say


def why_it_ended(status: int, log_tail: str) -> str:
    """For the job's owner. The log's last line says most: an uncaught error ends with its own."""
    if status == -signal.SIGKILL:
        return say("event.why.killed")
    if status < 0:
        return say("event.why.signal", name=signal.Signals(-status).name)
    lines = [line for line in log_tail.splitlines() if line.strip()]
    if not lines:
        return say("event.why.status", status=status)
    return say("event.why.last_line", status=status, line=lines[-1][:200])


def is_outage(exc: BaseException) -> bool:
    """The database, the blob store, the network or the disk did not do what was asked: no fault of the job's."""
    return isinstance(exc, OSError | DBAPIError | BaseError | httpx.TransportError)
