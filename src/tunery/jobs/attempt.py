"""One attempt at one job: prepare, train in a child, write down what it says, and bring the job to where it belongs.

Whatever dies, the next attempt finds the last saved state: the trainer in its workspace, another machine in the blobs.
"""

import logging
import threading
import time
from typing import TextIO

from tunery import tracing
from tunery.atomic import is_disk_full
from tunery.domain.errors import TuneryError
from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.jobs import endings, event_texts, measuring, publication
from tunery.jobs.faults import is_outage, why_it_ended
from tunery.jobs.lease import Lease, LeaseLost
from tunery.jobs.parity_check import ParityBroken, check_parity
from tunery.jobs.preparation import Prepared, prepare
from tunery.jobs.recorder import Recorder
from tunery.jobs.reports import Reports
from tunery.jobs.resources import Resources
from tunery.jobs.trainer_process import TrainerProcess, WorkdirBusy, lock_workdir
from tunery.jobs.workspace import Workspace
from tunery.logs import about
from tunery.store import claims, events, jobs
from tunery.store.database import read, write
from tunery.texts import say
from tunery.training.protocol import ControlRequest, Failed, FailureCode, Finished

log = logging.getLogger(__name__)

POLL_S = 0.25
RETRY_S = 15.0  # after a fault that may pass
MAX_DEATHS = 5  # of the trainer without progress: what kills every trainer must not go round for ever
SHUTDOWN_PATIENCE_S = 15.0  # the supervisor kills a worker that has not stopped after 25 s
PAUSE_PATIENCE_S = 5.0  # a step may take minutes: then the trainer is killed, and the last saved state counts
PAUSE_WITHIN_S = 8.0  # of the request, whatever the job waits for: a download, an upload, the engine

# Failures after which another start may go better: the state is kept, and the job can be resumed.
RESUMABLE = {
    FailureCode.TRAINING_FAILED,
    FailureCode.SERVER_ERROR,
    FailureCode.DISK_FULL,
    FailureCode.OUT_OF_MEMORY,
    FailureCode.TRAIN_SERVE_MISMATCH,
}
EXIT_TIMEOUT_S = 60.0  # a trainer that has said its last word must end within this


class TrainerLost(Exception):
    """The trainer ended without saying how it went; the text tells what is known."""


class Attempt:
    def __init__(self, job: FineTuningJob, resources: Resources, worker_id: str, stop: threading.Event) -> None:
        self._job, self._resources, self._worker_id, self._stop = job, resources, worker_id, stop
        self._trainer: TrainerProcess | None = None
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
        try:
            ids = {"job_id": self._job.id, "project_id": self._job.project_id}
            with about(**ids), tracing.span("train", attributes=ids), self._lease:
                self._attempt()
        except LeaseLost:
            self._let_go()
        except Exception:
            # The database is away, most likely: the lease runs out and another attempt follows.
            log.exception("the end of %s could not be written down", self._job.id)
        finally:
            if self._trainer is not None:
                self._trainer.kill()
            if self._lock is not None:
                self._lock.close()

    def _attempt(self) -> None:
        try:
            workspace = Workspace.of(self._resources.settings.home, self._job.id)
            self._lock = lock_workdir(workspace)
            prepared = prepare(self._job, self._resources, workspace)
            self._train(prepared)
            self._conclude(prepared)
        except LeaseLost:
            raise
        except TrainerLost as exc:
            self._count_death(exc.args[0])
        except WorkdirBusy as exc:
            self._give_back(event_texts.interrupted(exc.args[0]))
        except ParityBroken as exc:
            self._fail(JobError(FailureCode.TRAIN_SERVE_MISMATCH, exc.args[0]), publish=False)
        except TuneryError as exc:
            self._fail(JobError(exc.code or FailureCode.SERVER_ERROR, exc.message, exc.param))
        except Exception as exc:
            self._meet(exc)

    # ---- training

    def _train(self, prepared: Prepared) -> None:
        assert self._lock is not None
        trainer = self._trainer = self._resources.runner.start(prepared.workspace, self._lock)
        while not trainer.ended:
            self._recorder.record(trainer.messages(POLL_S), prepared)
            if self._lease.lost:
                raise LeaseLost(self._job.id)
        status = trainer.wait(EXIT_TIMEOUT_S)
        if self._recorder.last_word is None and not self._must_stop():
            raise TrainerLost(why_it_ended(status, trainer.log_tail()))

    def _must_stop(self) -> bool:
        return self._lease.pause_requested or self._stop.is_set()

    def _attend(self) -> None:
        """In the lease's thread, so that nothing that takes long delays a cancel or a pause. A job that was cancelled
        is no longer this worker's; all there is to do is to end the trainer."""
        trainer = self._trainer if self._trainer and not self._trainer.ended else None
        if self._lease.lost:
            if trainer is not None:
                trainer.process.kill()
            return
        if not self._must_stop():
            return
        self._asked_since = self._asked_since or time.monotonic()
        waited = time.monotonic() - self._asked_since
        if trainer is not None:
            self._stop_trainer(trainer, waited)
        if self._lease.pause_requested and waited > PAUSE_WITHIN_S:
            self._pause_now()

    def _stop_trainer(self, trainer: TrainerProcess, waited: float) -> None:
        patience = PAUSE_PATIENCE_S if self._lease.pause_requested else SHUTDOWN_PATIENCE_S
        # Before the first step there is nothing to save, and nobody looks at what is asked.
        if not self._recorder.has_started or waited > patience:
            trainer.process.kill()
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

    # ---- ends

    def _conclude(self, prepared: Prepared) -> None:
        last = self._recorder.last_word
        if isinstance(last, Finished):
            self._succeed(prepared, last)
        elif isinstance(last, Failed):
            self._fail(JobError(last.code, last.message, last.param, last.text))
        else:
            self._recorder.save_state(prepared.workspace)
            self._give_back(event_texts.HANDED_BACK)

    def _succeed(self, prepared: Prepared, finished: Finished) -> None:
        job, resources = self._job, self._resources
        folder = prepared.workspace.checkpoint(finished.step)
        # Stopped early, the best checkpoint is the model, and not the last.
        final = self._recorder.final_checkpoint(finished.step, folder)
        parity = check_parity(
            prepared.workspace.samples if self._recorder.has_samples else None,
            folder,
            final.model_id,
            source=prepared.source,
            engines=resources.settings.engines,
            catalog=resources.catalog,
            key=resources.settings.engine_api_key,
        )
        result_file = publication.store_result_file(job, resources)
        self._lease.stop()
        with write(resources.engine) as conn:
            self._lease.renew(conn)
            jobs.update_details(conn, job.id, self._recorder.final_details(final, parity.details))
            done = publication.publish(
                conn,
                job,
                resources,
                self._worker_id,
                final_step=final.step,
                parity=parity,
                result_file=result_file,
                trained_tokens=finished.trained_tokens,
            )
        measuring.remember(
            job,
            prepared,
            resources,
            trained_tokens=finished.trained_tokens,
            training_s=self._recorder.training_s,
            total_s=time.monotonic() - self._begun_s,
        )
        self._reports.finish(succeeded=True, summary={"fine_tuned_model": done.fine_tuned_model, **final.metrics})
        self._clean_up()

    def _fail(self, error: JobError, *, publish: bool = True) -> None:
        """`publish`: checkpoints that are safe become models of their own: what was trained until then is not lost."""
        resumable = error.code in RESUMABLE
        workspace = Workspace.of(self._resources.settings.home, self._job.id)
        if resumable:
            self._save_what_is_here(workspace)
        self._lease.stop()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            endings.fail(
                conn,
                self._job.id,
                self._worker_id,
                error,
                now=self._resources.clock(),
                resumable=resumable,
                publish=publish,
            )
        self._reports.finish(succeeded=False, summary={"status": "failed", "error": error.message})
        if resumable:
            workspace.keep_state()
        else:
            self._clean_up()

    def _save_what_is_here(self, workspace: Workspace) -> None:
        """For another machine; on this one the job goes on from its folder."""
        try:
            self._recorder.save_state(workspace)
        except LeaseLost:
            raise
        except Exception:
            log.warning("the newest state of %s lies on this machine only", self._job.id, exc_info=True)

    def _give_back(self, event: str) -> None:
        """Paused, where its owner asked for that, else back to the queue: what ended this attempt is no fault of the
        job's."""
        self._lease.stop()
        now = self._resources.clock()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            if self._lease.pause_requested:
                endings.pause(conn, self._job.id, self._worker_id, now=now)
            else:
                claims.release_job(conn, self._job.id, self._worker_id)
                events.add_event(conn, self._job.id, event, now=now)

    def _count_death(self, reason: str) -> None:
        """The next attempt goes on from the last state, until too many trainers died without progress."""
        workspace = Workspace.of(self._resources.settings.home, self._job.id)
        self._lease.stop()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            step = max(workspace.local_step() or 0, self._recorder.saved_step)
            deaths = claims.count_death(conn, self._job.id, self._worker_id, step=step).attempts
            if deaths < MAX_DEATHS and not self._lease.pause_requested:
                text = event_texts.trainer_lost(reason, deaths, MAX_DEATHS)
                events.add_event(conn, self._job.id, text, now=self._resources.clock(), level="warn")
                claims.release_job(conn, self._job.id, self._worker_id)
                return
        if self._lease.pause_requested:
            self._give_back(event_texts.PAUSED)
        else:
            self._fail(JobError(FailureCode.TRAINING_FAILED, event_texts.gave_up(reason, deaths)))

    def _meet(self, exc: Exception) -> None:
        """Something that is nobody's wish and may pass, such as a blob store that does not answer."""
        if self._trainer is not None:
            self._trainer.kill()
        if is_disk_full(exc):
            # Room first: the database may lie on the same disk.
            Workspace.of(self._resources.settings.home, self._job.id).keep_state()
            self._fail(JobError(FailureCode.DISK_FULL, event_texts.DISK_FULL))
            return
        log.exception("an attempt at %s broke down", self._job.id)
        deadline = time.monotonic() + RETRY_S
        while time.monotonic() < deadline and not self._must_stop() and not self._lease.lost:
            self._stop.wait(POLL_S)
        reason = say("event.why.internal", name=type(exc).__name__)
        if is_outage(exc):
            self._give_back(event_texts.interrupted(reason))
        else:
            self._count_death(reason)

    def _let_go(self) -> None:
        """The job was cancelled or paused while this thread was held up, or another worker has it."""
        if self._trainer is not None:
            self._trainer.kill()
        with read(self._resources.engine) as conn:
            status = jobs.get_job(conn, self._job.id).status
        log.info("%s is %s and no longer held here", self._job.id, status)
        if status is JobStatus.CANCELLED:
            self._reports.finish(succeeded=False, summary={"status": "cancelled"})
            self._clean_up()

    def _clean_up(self) -> None:
        """After the commit; what is left behind by a death in between, the janitor finds."""
        Workspace.of(self._resources.settings.home, self._job.id).remove()
        self._resources.blobs.delete_dir(f"jobs/{self._job.id}")
