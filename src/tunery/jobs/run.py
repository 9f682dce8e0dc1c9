"""One attempt at one job: prepare, train in a child, write down what it says, and bring the job to where it belongs.

Whatever dies, the next attempt finds the last saved state: the trainer in its workspace, another machine in the blobs.
"""

import logging
import threading
import time
from pathlib import Path
from typing import TextIO

from tunery import tracing
from tunery.domain.errors import TuneryError
from tunery.domain.jobs import FineTuningJob, JobError
from tunery.jobs import endings, measuring, narrative, publication
from tunery.jobs.faults import is_disk_full, why_it_ended
from tunery.jobs.lease import Lease, LeaseLost
from tunery.jobs.parity_check import ParityBroken, check_parity
from tunery.jobs.preparation import Prepared, prepare
from tunery.jobs.recording import Recorder
from tunery.jobs.reports import Reports
from tunery.jobs.resources import Resources
from tunery.jobs.runners.process import Message, TrainerProcess, Wish, WorkdirBusy, lock_workdir
from tunery.jobs.workspace import Workspace
from tunery.logs import about
from tunery.store import claims, events, jobs
from tunery.store.claims import MAX_ATTEMPTS
from tunery.store.database import write
from tunery.texts import say

log = logging.getLogger(__name__)

POLL_S = 0.25
FIRST_RETRY_S = 5.0  # then three times as long after each attempt that got nowhere
SHUTDOWN_PATIENCE_S = 15.0  # the supervisor kills a worker that has not stopped after 25 s
EXIT_TIMEOUT_S = 60.0  # a trainer that has said its last word must end within this


class TrainerLost(Exception):
    """The trainer ended without saying how it went; the text tells what is known."""


class JobRun:
    def __init__(self, job: FineTuningJob, resources: Resources, worker_id: str, stop: threading.Event) -> None:
        self._job, self._resources, self._worker_id, self._stop = job, resources, worker_id, stop
        self._trainer: TrainerProcess | None = None
        self._lock: TextIO | None = None
        self._stopping_since: float | None = None
        self._begun_s = 0.0
        self._reports = Reports(job, resources)
        self._lease = Lease(
            resources.engine,
            job.id,
            worker_id=worker_id,
            lease_s=resources.settings.lease_s,
            on_beat=lambda _: self._pass_on_wishes(),
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
            log.warning("%s belongs to another worker by now", self._job.id)
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
            self._lock = lock_workdir(workspace.root)
            prepared = prepare(self._job, self._resources, workspace)
            self._train(prepared)
            self._conclude(prepared)
        except LeaseLost:
            raise
        except TrainerLost as exc:
            self._try_again(exc.args[0])
        except WorkdirBusy as exc:
            self._try_again(exc.args[0])
        except ParityBroken as exc:
            self._fail(JobError("train_serve_mismatch", exc.args[0]), keep_checkpoints=False)
        except TuneryError as exc:
            self._fail(JobError(exc.code or "server_error", exc.message, exc.param))
        except Exception as exc:
            self._meet(exc)

    # ---- training

    def _train(self, prepared: Prepared) -> None:
        assert self._lock is not None
        trainer = self._trainer = self._resources.runner.start(prepared.workspace.root, self._lock)
        while not trainer.ended:
            self._recorder.hear(trainer.messages(POLL_S), prepared)
            if self._lease.lost:
                raise LeaseLost(self._job.id)
        status = trainer.wait(EXIT_TIMEOUT_S)
        if self._recorder.last_word is None and not self._wish():
            raise TrainerLost(why_it_ended(status, trainer.log_tail()))

    def _pass_on_wishes(self) -> None:
        """In the lease's thread, so that a slow upload delays no cancel."""
        trainer, wish = self._trainer, self._wish()
        if trainer is None or trainer.ended:
            return
        # Before the first step there is nothing to save, and nobody looks at the wish.
        if self._lease.lost or (wish and not self._recorder.has_started) or self._is_patience_over():
            trainer.process.kill()
        elif wish:
            trainer.ask(wish)

    def _is_patience_over(self) -> bool:
        if not self._stop.is_set():
            return False
        self._stopping_since = self._stopping_since or time.monotonic()
        return time.monotonic() - self._stopping_since > SHUTDOWN_PATIENCE_S

    def _wish(self) -> Wish | None:
        if self._lease.cancel_requested:
            return "cancel"
        return "pause" if self._lease.pause_requested or self._stop.is_set() else None

    # ---- ends

    def _conclude(self, prepared: Prepared) -> None:
        last = self._recorder.last_word or {"type": self._wish() or "paused"}
        if self._lease.cancel_requested:
            self._cancel()
        elif last["type"] == "finished":
            self._succeed(prepared, last)
        elif last["type"] == "failed":
            self._fail(JobError(last["code"], last["message"], last.get("param"), last.get("text")))
        else:
            self._recorder.save_state(prepared.workspace)
            self._rest()

    def _succeed(self, prepared: Prepared, finished: Message) -> None:
        job, resources, folder = self._job, self._resources, Path(finished["dir"])
        # Stopped early, the best checkpoint is the model, and not the last.
        final = next(kept for kept in self._recorder.checkpoints if f"step-{kept.step}" == folder.name)
        parity = check_parity(
            self._recorder.parity_file,
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
            jobs.update_details(conn, job.id, {"metrics": final.metrics, "parity": parity.details, "state": None})
            done = publication.publish(
                conn,
                job,
                resources,
                self._worker_id,
                final_step=final.step,
                source=prepared.source,
                parity=parity,
                result_file=result_file,
                trained_tokens=finished["trained_tokens"],
            )
        measuring.remember(
            job,
            prepared,
            resources,
            trained_tokens=finished["trained_tokens"],
            training_s=self._recorder.training_s,
            total_s=time.monotonic() - self._begun_s,
        )
        self._reports.finish(succeeded=True, summary={"fine_tuned_model": done.fine_tuned_model, **final.metrics})
        self._clean_up()

    def _cancel(self) -> None:
        self._lease.stop()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            endings.cancel(conn, self._job.id, self._worker_id, now=self._resources.clock())
        self._reports.finish(succeeded=False, summary={"status": "cancelled"})
        for checkpoint in self._recorder.checkpoints:
            self._resources.blobs.delete_dir(checkpoint.blob)
        self._clean_up()

    def _fail(self, error: JobError, *, keep_checkpoints: bool = True) -> None:
        """Checkpoints that are safe become models of their own: what was trained until then is not lost."""
        self._lease.stop()
        now = self._resources.clock()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            if keep_checkpoints and self._recorder.checkpoints:
                job = jobs.get_job(conn, self._job.id)
                source = job.details["source"]
                publication.publish_checkpoints(conn, job, source=source, now=now)
            endings.fail(conn, self._job.id, self._worker_id, error, now=now)
        self._reports.finish(succeeded=False, summary={"status": "failed", "error": error.message})
        self._clean_up()

    def _rest(self) -> None:
        """Paused by its owner, or given back because this worker shuts down."""
        self._lease.stop()
        now = self._resources.clock()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            if self._lease.cancel_requested:
                endings.cancel(conn, self._job.id, self._worker_id, now=now)
            elif self._lease.pause_requested:
                claims.pause_job(conn, self._job.id, self._worker_id)
                events.add_event(conn, self._job.id, narrative.PAUSED, now=now)
            else:
                claims.release_job(conn, self._job.id, self._worker_id)
                events.add_event(conn, self._job.id, narrative.HANDED_BACK, now=now)

    def _try_again(self, reason: str) -> None:
        """The next attempt goes on from the last state, until too many made no headway."""
        self._lease.stop()
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            attempts = jobs.get_job(conn, self._job.id).attempts
            if not self._lease.cancel_requested and attempts < MAX_ATTEMPTS:
                text = narrative.trainer_lost(reason, attempts, MAX_ATTEMPTS)
                events.add_event(conn, self._job.id, text, now=self._resources.clock(), level="warn")
                claims.requeue_job(conn, self._job.id, self._worker_id)
                return
        if self._lease.cancel_requested:
            self._cancel()
        else:
            self._fail(JobError("training_failed", narrative.gave_up(reason, attempts)))

    def _meet(self, exc: Exception) -> None:
        """Something that is nobody's wish and may pass, such as a blob store that does not answer."""
        if self._trainer is not None:
            self._trainer.kill()
        if is_disk_full(exc):
            # Room first: the database may lie on the same disk.
            Workspace.of(self._resources.settings.home, self._job.id).remove()
            self._fail(JobError("disk_full", narrative.DISK_FULL))
            return
        log.exception("attempt %d broke down", self._job.attempts)
        deadline = time.monotonic() + FIRST_RETRY_S * 3 ** (self._job.attempts - 1)
        while time.monotonic() < deadline and not self._wish() and not self._lease.lost:
            self._stop.wait(POLL_S)
        self._try_again(say("event.why.internal", name=type(exc).__name__))

    def _clean_up(self) -> None:
        """After the commit; what is left behind by a death in between, the janitor finds."""
        Workspace.of(self._resources.settings.home, self._job.id).remove()
        self._resources.blobs.delete_dir(f"jobs/{self._job.id}")
