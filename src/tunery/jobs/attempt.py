"""One attempt at one job: prepare, train in a child, write down what it says, and settle how it went.

    outcome()  everything slow; ends in one of the outcomes below
    settle()   the one place where an outcome is written down, in one transaction

Whatever dies, the next attempt finds the last saved state: the trainer in its workspace, another machine in the blobs.
A cancel wins against every outcome: it takes the job away from its worker in one statement (`store.jobs.cancel_job`),
and whatever this worker writes begins with its lease, which is gone then.
"""

import logging
import threading
import time
from dataclasses import dataclass
from typing import TextIO

import httpx
from obstore.exceptions import BaseError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tunery import tracing
from tunery.atomic import is_disk_full
from tunery.domain.errors import TuneryError
from tunery.domain.files import File
from tunery.domain.job_details import StoredCheckpoint
from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.engines.host import starter
from tunery.jobs import endings
from tunery.jobs.endings import ParityBroken, ParityReport
from tunery.jobs.hold import Lease, LeaseLost, WorkdirBusy, lock_workdir, tail
from tunery.jobs.recorder import Recorder, Reports, remember_speed
from tunery.jobs.resources import Resources
from tunery.jobs.runner import Trainer, TrainerLost
from tunery.jobs.workspace import Prepared, Workspace, prepare
from tunery.logs import about
from tunery.store import claims, events, jobs
from tunery.store.database import read, write
from tunery.texts import say
from tunery.training.protocol import ControlRequest, FailureCode, Finished
from tunery.training.protocol import Failed as TrainerFailed

log = logging.getLogger(__name__)

POLL_S = 0.25
RETRY_S = 15.0  # after a fault that may pass
MAX_DEATHS = 5  # of the trainer without progress: what kills every trainer must not go round for ever
SHUTDOWN_PATIENCE_S = 15.0  # the supervisor kills a worker that has not stopped after 25 s
PAUSE_PATIENCE_S = 5.0  # a step may take minutes: then the trainer is killed, and the last saved state counts
PAUSE_WITHIN_S = 8.0  # of the request, whatever the job waits for: a download, an upload, the engine
MAX_KEPT_LOG_BYTES = 64 * 1024  # of a trainer that failed, for the job's owners
EXIT_TIMEOUT_S = 60.0  # a trainer that has said its last word must end within this

# Failures after which another start may go better: the state is kept, and the job can be resumed.
RESUMABLE = {
    FailureCode.TRAINING_FAILED,
    FailureCode.SERVER_ERROR,
    FailureCode.DISK_FULL,
    FailureCode.OUT_OF_MEMORY,
    FailureCode.TRAIN_SERVE_MISMATCH,
}


@dataclass(frozen=True)
class Succeeded:
    prepared: Prepared
    first_step: int  # it went on from here
    final: StoredCheckpoint
    parity: ParityReport
    result_file: File
    trained_tokens: int


@dataclass(frozen=True)
class Failed:
    error: JobError
    publish: bool = True  # checkpoints that are safe become models: what was trained until then is not lost

    @property
    def is_resumable(self) -> bool:
        return self.error.code in RESUMABLE


@dataclass(frozen=True)
class Cancelled:
    """By its owner, and written down there: what is left is to clean up."""


@dataclass(frozen=True)
class Paused:
    """As its owner asked, with its state saved."""


@dataclass(frozen=True)
class HandedBack:
    """To the queue: what ended this attempt is no fault of the job's."""

    event: str


@dataclass(frozen=True)
class TryAgain:
    """From the queue: its trainer died, which was counted."""

    event: str


Outcome = Succeeded | Failed | Cancelled | Paused | HandedBack | TryAgain


class Attempt:
    def __init__(self, job: FineTuningJob, resources: Resources, worker_id: str, stop: threading.Event) -> None:
        self._job, self._resources, self._worker_id, self._stop = job, resources, worker_id, stop
        self._trainer: Trainer | None = None
        self._lock: TextIO | None = None
        self._asked_since: float | None = None  # to pause, or to give the job back
        self._is_asked = False
        self._begun_s = 0.0
        self._reports = Reports(job, resources)
        self._lease = Lease(
            resources.engine,
            job.id,
            worker_id=worker_id,
            lease_s=resources.settings.lease_s,
            on_beat=lambda _: self._attend(),
            clock=resources.clock,
        )
        self._recorder = Recorder(job, resources, self._lease, self._reports)

    def run(self) -> None:
        """Never raises: whatever happens here ends or requeues this one job."""
        self._begun_s = time.monotonic()
        ids = {"job_id": self._job.id, "project_id": self._job.project_id}
        try:
            with about(**ids), tracing.span("train", attributes=ids), self._lease:
                self._run()
        except Exception:
            # The database is away, most likely: the lease runs out and another attempt follows.
            log.exception("the end of %s could not be written down", self._job.id)
        finally:
            if self._recorder.sampler is not None:
                self._recorder.sampler.stop()
            if self._trainer is not None:
                self._trainer.close()
            if self._lock is not None:
                self._lock.close()

    def _run(self) -> None:
        try:
            outcome = self.outcome()
            try:
                outcome = self.settle(outcome)
            except LeaseLost:
                raise
            except Exception as exc:
                outcome = self.settle(self._after_fault(exc))
        except LeaseLost:
            outcome = self._taken_away()
        if outcome is not None:
            self._tidy_up(outcome)

    # ---- outcome

    def outcome(self) -> Outcome:
        """Raises LeaseLost when the job is no longer this worker's."""
        try:
            workspace = Workspace.of(self._resources.settings.home, self._job.id)
            self._lock = lock_workdir(workspace)
            prepared = prepare(self._job, self._resources, workspace)
            self._trainer = self._resources.runner.start(prepared.inputs, workspace, self._lock)
            self._train(prepared, self._trainer)
            return self._judge(prepared, self._trainer)
        except LeaseLost:
            raise
        except TrainerLost as exc:
            return self._count_death(exc.args[0])
        except WorkdirBusy as exc:
            return HandedBack(say("event.interrupted", reason=exc.args[0]))
        except ParityBroken as exc:
            return Failed(JobError(FailureCode.TRAIN_SERVE_MISMATCH, exc.args[0]), publish=False)
        except TuneryError as exc:
            return Failed(JobError(exc.code or FailureCode.SERVER_ERROR, exc.message, exc.param))
        except Exception as exc:
            return self._after_fault(exc)

    def _train(self, prepared: Prepared, trainer: Trainer) -> None:
        while not trainer.ended:
            self._recorder.record(trainer.messages(POLL_S), prepared, trainer)
            if self._lease.lost:
                raise LeaseLost(self._job.id)
        why = trainer.wait(EXIT_TIMEOUT_S)
        if self._recorder.last_word is None and not self._must_stop():
            raise TrainerLost(why)

    def _judge(self, prepared: Prepared, trainer: Trainer) -> Outcome:
        """By the trainer's last word; none, or a pause, when it was asked to stop."""
        match self._recorder.last_word:
            case Finished() as finished:
                return self._check(prepared, trainer, finished)
            case TrainerFailed() as failed:
                return Failed(JobError(failed.code, failed.message, failed.param, failed.text))
            case _:
                self._recorder.save_state(trainer)
                return HandedBack(say("event.handed_back"))

    def _check(self, prepared: Prepared, trainer: Trainer, finished: Finished) -> Succeeded:
        """Raises ParityBroken."""
        settings, workspace, source = self._resources.settings, prepared.workspace, prepared.inputs.source
        if self._recorder.sampler is not None:
            self._recorder.sampler.wait(lambda: self._must_stop() or self._lease.lost)
        # Stopped early, the best checkpoint is the model, and not the last.
        final = self._recorder.final_checkpoint(finished.step, trainer)
        workspace.restore_checkpoint(self._resources.blobs, final.step, final.blob)
        parity = endings.check_parity(
            workspace.samples if self._recorder.has_samples else None,
            workspace.checkpoint(final.step),
            final.model_id,
            source=source,
            engines=settings.engines,
            catalog=self._resources.catalog,
            key=settings.engine_api_key,
            start=starter(settings, source, goes_on=lambda: not self._lease.lost),
        )
        result_file = endings.store_result_file(self._job, self._resources)
        return Succeeded(prepared, trainer.step, final, parity, result_file, finished.trained_tokens)

    def _count_death(self, reason: str) -> Outcome:
        """The next attempt goes on from the last state, until too many trainers died without progress."""
        workspace = Workspace.of(self._resources.settings.home, self._job.id)
        step = max(workspace.local_step() or 0, self._recorder.saved_step)
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            deaths = claims.count_death(conn, self._job.id, self._worker_id, step=step).attempts
        if deaths < MAX_DEATHS or self._lease.pause_requested:
            return TryAgain(say("event.trainer_lost", reason=reason, deaths=deaths, most=MAX_DEATHS))
        return Failed(JobError(FailureCode.TRAINING_FAILED, say("event.gave_up", deaths=deaths, reason=reason)))

    def _after_fault(self, exc: Exception) -> Outcome:
        """Of something that nobody asked for and that may pass, such as a blob store that does not answer."""
        if self._trainer is not None:
            self._trainer.wait(0)
        if is_disk_full(exc):
            # Room first: the database may lie on the same disk.
            Workspace.of(self._resources.settings.home, self._job.id).keep_state()
            return Failed(JobError(FailureCode.DISK_FULL, say("event.disk_full")))
        log.exception("an attempt at %s broke down", self._job.id)
        deadline = time.monotonic() + RETRY_S
        while time.monotonic() < deadline and not self._must_stop() and not self._lease.lost:
            self._stop.wait(POLL_S)
        reason = say("event.why.internal", name=type(exc).__name__)
        return HandedBack(say("event.interrupted", reason=reason)) if _is_outage(exc) else self._count_death(reason)

    # ---- settlement

    def settle(self, outcome: Outcome) -> Outcome:
        """What was written down: a pause that was asked for meanwhile takes the place of a return to the queue. Raises
        LeaseLost when the job was cancelled, or is another worker's."""
        if isinstance(outcome, Failed) and outcome.is_resumable:
            self._save_what_is_here()
        trainer_log = tail(Workspace.of(self._resources.settings.home, self._job.id).log, MAX_KEPT_LOG_BYTES)
        self._lease.stop()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            if isinstance(outcome, HandedBack | TryAgain) and self._lease.pause_requested:
                outcome = Paused()
            self._write_down(conn, outcome, trainer_log, now=self._resources.clock())
        return outcome

    def _write_down(self, conn: Connection, outcome: Outcome, trainer_log: str, *, now: float) -> None:
        job_id, worker_id = self._job.id, self._worker_id
        match outcome:
            case Succeeded():
                self._publish(conn, outcome)
            case Failed(error, publish):
                if trainer_log:
                    events.keep_trainer_log(conn, job_id, trainer_log.replace("\0", "\ufffd"), now=now)
                resumable = outcome.is_resumable
                endings.fail(conn, job_id, worker_id, error, now=now, resumable=resumable, publish=publish)
            case Paused():
                endings.pause(conn, job_id, worker_id, now=now)
            case HandedBack(event):
                claims.release_job(conn, job_id, worker_id)
                events.add_event(conn, job_id, event, now=now)
            case TryAgain(event):
                claims.release_job(conn, job_id, worker_id)
                events.add_event(conn, job_id, event, now=now, level="warn")
            case Cancelled():
                pass  # by whoever cancelled it

    def _publish(self, conn: Connection, success: Succeeded) -> None:
        jobs.update_details(
            conn,
            self._job.id,
            metrics=success.final.metrics,
            parity=success.parity.details,
            state=None,
            checkpoints=self._recorder.checkpoints,
        )
        endings.succeed(
            conn,
            self._job,
            self._resources,
            self._worker_id,
            final_step=success.final.step,
            parity=success.parity,
            result_file=success.result_file,
            trained_tokens=success.trained_tokens,
        )

    def _save_what_is_here(self) -> None:
        """For another machine; on this one the job goes on from its folder."""
        if self._trainer is None:
            return
        try:
            self._recorder.save_state(self._trainer)
        except LeaseLost:
            raise
        except Exception:
            log.warning("the newest state of %s lies on this machine only", self._job.id, exc_info=True)

    def _taken_away(self) -> Cancelled | None:
        """None: it was paused while this thread was held up, or another worker has it, and its folder with it."""
        if self._trainer is not None:
            self._trainer.close()
        with read(self._resources.engine) as conn:
            status = jobs.get_job(conn, self._job.id).status
        log.info("%s is %s and no longer held here", self._job.id, status)
        return Cancelled() if status is JobStatus.CANCELLED else None

    def _tidy_up(self, outcome: Outcome) -> None:
        """After the commit; what is left behind by a death in between, the janitor finds."""
        workspace = Workspace.of(self._resources.settings.home, self._job.id)
        match outcome:
            case Succeeded():
                self._remember_speed(outcome)
                with read(self._resources.engine) as conn:
                    name = jobs.get_job(conn, self._job.id).fine_tuned_model
                self._reports.finish(succeeded=True, summary={"fine_tuned_model": name, **outcome.final.metrics})
            case Failed(error):
                self._reports.finish(succeeded=False, summary={"status": "failed", "error": error.message})
                if outcome.is_resumable:
                    return workspace.keep_state()
            case Cancelled():
                self._reports.finish(succeeded=False, summary={"status": "cancelled"})
            case Paused() | HandedBack() | TryAgain():
                return None
        workspace.remove()
        self._resources.blobs.delete_dir(f"jobs/{self._job.id}")

    def _remember_speed(self, success: Succeeded) -> None:
        remember_speed(
            self._job,
            success.prepared,
            self._resources,
            first_step=success.first_step,
            trained_tokens=success.trained_tokens,
            training_s=self._recorder.training_s,
            total_s=time.monotonic() - self._begun_s,
        )

    # ---- in the lease's thread

    def _must_stop(self) -> bool:
        return self._lease.pause_requested or self._stop.is_set()

    def _attend(self) -> None:
        """So that nothing that takes long delays a cancel or a pause. A job that was cancelled is no longer this
        worker's; all there is to do is to end the trainer."""
        trainer = self._trainer if self._trainer and not self._trainer.ended else None
        if self._lease.lost:
            if trainer is not None:
                trainer.kill()
            return
        if not self._must_stop():
            return
        self._asked_since = self._asked_since or time.monotonic()
        waited = time.monotonic() - self._asked_since
        if trainer is not None:
            self._stop_trainer(trainer, waited)
        if self._lease.pause_requested and waited > PAUSE_WITHIN_S:
            self._pause_now()

    def _stop_trainer(self, trainer: Trainer, waited: float) -> None:
        patience = PAUSE_PATIENCE_S if self._lease.pause_requested else SHUTDOWN_PATIENCE_S
        # Before the first step there is nothing to save, and nobody looks at what is asked.
        if not self._recorder.has_started or waited > patience:
            trainer.kill()
        elif not self._is_asked:
            trainer.ask(ControlRequest.PAUSE)
            self._is_asked = True

    def _pause_now(self) -> None:
        """While the job's own thread is held up: it can write nothing more for the job."""
        try:
            with write(self._resources.engine) as conn:
                self._lease.renew(conn)
                endings.pause(conn, self._job.id, self._worker_id, now=self._resources.clock())
        except LeaseLost:
            pass
        self._lease.lost = True


def _is_outage(exc: BaseException) -> bool:
    """The database, the blob store, the network or the disk did not do what was asked: no fault of the job's."""
    return isinstance(exc, OSError | DBAPIError | BaseError | httpx.TransportError)
