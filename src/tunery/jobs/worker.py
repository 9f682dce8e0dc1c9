"""The worker's loop: reap, check files, train. Any number may share one database: each claim is one statement."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import Engine

from tunery.domain.clock import Clock, system_clock
from tunery.jobs import endings, janitor, ray_cluster
from tunery.jobs.attempt import Attempt
from tunery.jobs.file_check import validate_job
from tunery.jobs.hold import ProcessRunner
from tunery.jobs.identity import WorkerIdentity, is_dead_here, this_worker
from tunery.jobs.resources import Resources
from tunery.jobs.runner import Runner
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog
from tunery.settings import Settings
from tunery.store import claims, workers
from tunery.store.blobs import Blobs
from tunery.store.database import write

log = logging.getLogger(__name__)

POLL_S = 0.5
SEEN_EVERY_S = 5.0
CLEAN_EVERY_S = 3600.0


class Worker:
    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        blobs: Blobs,
        catalog: Catalog,
        *,
        runner: Runner | None = None,
        identity: WorkerIdentity | None = None,
        clock: Clock = system_clock,
    ) -> None:
        prices = PriceTable.load(settings.prices, [model.name for model in catalog if model.training], catalog=catalog)
        runner = runner or _runner_of(settings, blobs)
        self._resources = Resources(settings, engine, blobs, catalog, prices, runner, clock)
        self._identity = identity or this_worker()
        self._id = str(self._identity)
        self._training: set[Future[None]] = set()
        self._checking: Future[None] | None = None
        self._seen_at = self._cleaned_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Until stop is set: then running jobs save their state and go back to the queue before this returns."""
        slots = self._resources.settings.worker_concurrency
        with (
            ThreadPoolExecutor(slots, thread_name_prefix="job") as trainers,
            ThreadPoolExecutor(1, thread_name_prefix="check") as checker,
        ):
            while not stop.is_set():
                try:
                    has_work = self._run_once(trainers, checker, stop)
                except Exception:
                    log.exception("the worker could not look for work")
                    has_work = False
                if not has_work:
                    stop.wait(POLL_S)
            log.info("the worker stops; running jobs go back to the queue")
        with write(self._resources.engine) as conn:
            workers.worker_gone(conn, self._id)

    def _run_once(self, trainers: ThreadPoolExecutor, checker: ThreadPoolExecutor, stop: threading.Event) -> bool:
        """One look around. True when something was begun, so that the next look need not wait."""
        self._tell_alive()
        self._reap()
        self._training = {future for future in self._training if not future.done()}
        return self._begin_check(checker) | self._begin_training(trainers, stop)

    def _reap(self) -> None:
        """Puts back the jobs of workers that died on this machine at once, those of silent ones when their lease has
        run out."""
        now = self._resources.clock()
        with write(self._resources.engine) as conn:
            dead = tuple(holder for holder in claims.list_holders(conn) if is_dead_here(holder, self._identity))
            if dead:
                claims.expire_leases(conn, dead)
            for job in claims.requeue_stalled(conn, now=now):
                endings.tell_stalled(conn, job, now=now)

    def _tell_alive(self) -> None:
        now = self._resources.clock()
        if now - self._seen_at >= SEEN_EVERY_S:
            with write(self._resources.engine) as conn:
                workers.worker_seen(conn, self._id, self._identity.host, now)
            self._seen_at = now
        if now - self._cleaned_at >= CLEAN_EVERY_S:
            self._cleaned_at = now
            janitor.clean(self._resources)

    def _begin_check(self, checker: ThreadPoolExecutor) -> bool:
        if self._checking is not None and not self._checking.done():
            return False
        with write(self._resources.engine) as conn:
            job = claims.claim_validating(
                conn, self._id, now=self._resources.clock(), lease_s=self._resources.settings.lease_s
            )
        if job is None:
            return False
        self._checking = checker.submit(validate_job, job, self._resources, self._id)
        return True

    def _begin_training(self, trainers: ThreadPoolExecutor, stop: threading.Event) -> bool:
        settings = self._resources.settings
        if len(self._training) >= settings.worker_concurrency:
            return False
        with write(self._resources.engine) as conn:
            job = claims.claim_next_job(
                conn,
                self._id,
                now=self._resources.clock(),
                lease_s=settings.lease_s,
                max_running=settings.max_running_jobs,
            )
        if job is None:
            return False
        log.info("%s begins", job.id)
        self._training.add(trainers.submit(Attempt(job, self._resources, self._id, stop).run))
        return True


def _runner_of(settings: Settings, blobs: Blobs) -> Runner:
    """Raises SettingsError when there is no cluster to run on."""
    if settings.runner == "process":
        return ProcessRunner(blobs, settings.models_dir)
    ray_cluster.connect(settings.ray_address)
    from tunery.jobs.ray_runner import RayRunner  # not before it is known to be installed

    return RayRunner.of(settings)
