"""Holds a job for this worker: renews the lease in a thread of its own and hears what the job's owner wants."""

import logging
import threading
from collections.abc import Callable

from sqlalchemy import Connection, Engine

from tunery.domain.clock import Clock, system_clock
from tunery.store import claims
from tunery.store.database import write

log = logging.getLogger(__name__)

LONGEST_PERIOD_S = 0.5  # a pause is heard, and a cancel is noticed, within this time


class LeaseLost(Exception):
    """Another worker may have the job by now: nothing more may be written for it here."""


class Lease:
    """A context manager. `on_beat` is called after each renewal in the lease's thread, with `lost=True` once when the
    lease is gone: another worker has the job, or it was cancelled."""

    def __init__(
        self,
        engine: Engine,
        job_id: str,
        *,
        worker_id: str,
        lease_s: float,
        on_beat: Callable[["Lease"], None],
        clock: Clock = system_clock,
    ) -> None:
        self.job_id, self.worker_id = job_id, worker_id
        self.pause_requested = self.lost = False
        self._engine, self._lease_s, self._on_beat, self._clock = engine, lease_s, on_beat, clock
        self._period_s = min(LONGEST_PERIOD_S, lease_s / 3)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job_id}", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more beats: the caller is about to let the job go, which must not look like a loss."""
        self._done.set()
        self._thread.join()

    def renew(
        self,
        conn: Connection,
        *,
        step: int | None = None,
        estimated_finish: int | None = None,
    ) -> None:
        """Renew inside the caller's transaction, so that what it writes is written only by the job's holder.
        Raises LeaseLost."""
        flags = claims.heartbeat(
            conn,
            self.job_id,
            self.worker_id,
            now=self._clock(),
            lease_s=self._lease_s,
            step=step,
            estimated_finish=estimated_finish,
        )
        if flags is None:
            self.lost = True
            raise LeaseLost(self.job_id)
        self.pause_requested = flags.pause_requested

    def _keep(self) -> None:
        last = self._clock()
        while not self._done.wait(self._period_s):
            try:
                with write(self._engine) as conn:
                    self.renew(conn)
                last = self._clock()
            except LeaseLost:
                log.info("%s was cancelled, or its lease is lost", self.job_id)
            except Exception:
                # The database may be back before the lease runs out.
                log.exception("the lease of %s could not be renewed", self.job_id)
                self.lost = self._clock() - last > self._lease_s
            self._on_beat(self)
            if self.lost:
                return
