"""Writes down what a trainer says, as it says it: events, progress, checkpoints and states."""

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunery.domain.ids import new_id
from tunery.domain.job_details import StoredCheckpoint
from tunery.domain.jobs import FineTuningJob
from tunery.jobs import event_texts
from tunery.jobs.lease import Lease, LeaseLost
from tunery.jobs.resources import Resources
from tunery.jobs.wandb import Reports
from tunery.jobs.workspace import Prepared, Workspace
from tunery.store import claims, events, jobs
from tunery.store.database import write
from tunery.texts import reference
from tunery.training.pace import Pace
from tunery.training.protocol import (
    KEEP,
    CheckpointSaved,
    Failed,
    Finished,
    LastWord,
    Message,
    Note,
    ParitySamples,
    Started,
    StateSaved,
    StepMetrics,
    Stopped,
)

log = logging.getLogger(__name__)


class Recorder:
    """Every transaction renews the lease first, so nothing is written for a job that another worker has."""

    def __init__(self, job: FineTuningJob, resources: Resources, lease: Lease, reports: Reports) -> None:
        self._job, self._resources, self._lease, self._reports = job, resources, lease, reports
        self._recorded_step = job.step
        self._saved = job.details.state
        self._pace = Pace(resources.settings.state_interval_s)  # of uploads; the trainer keeps its own
        self.checkpoints = job.details.checkpoints
        self.has_started = False
        self._started_s = time.monotonic()
        self.training_s = 0.0  # from the first step to the last word
        self.has_samples = False  # for the parity check
        self.last_word: LastWord | None = None

    def record(self, messages: list[Message], prepared: Prepared) -> None:
        """Steps that came together are written together; whatever needs the blobs is done outside of transactions."""
        steps: list[StepMetrics] = []
        for message in messages:
            if isinstance(message, StepMetrics):
                steps.append(message)
                continue
            self._record_steps(steps)
            steps = []
            self._record_other(message, prepared)
        self._record_steps(steps)

    def _record_other(self, message: Message, prepared: Prepared) -> None:
        match message:
            case Started():
                self._record_start(message, prepared)
            case CheckpointSaved():
                self._store_checkpoint(message, prepared.workspace)
            case StateSaved():
                if self._pace.is_due():
                    self.save_state(prepared.workspace)
            case Note():
                self._record_note(message)
            case ParitySamples():
                self.has_samples = True
            case Finished() | Failed() | Stopped():
                self.last_word = message
                self.training_s = time.monotonic() - self._started_s
            case StepMetrics():
                pass  # recorded together, above

    def _record_start(self, message: Started, prepared: Prepared) -> None:
        self.has_started = True
        self._started_s = time.monotonic()
        numbers, now = prepared.numbers, self._resources.clock()
        reasons = prepared.hyperparameters.reasons
        first = not self._job.total_steps
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            claims.start_job(
                conn, self._job.id, self._lease.worker_id, hyperparameters=numbers, total_steps=message.total_steps
            )
            if first:
                jobs.update_details(
                    conn,
                    self._job.id,
                    hyperparameter_reasons=reasons,
                    texts=reference({"reasons": reasons}) or {},
                    source=prepared.source,
                    weights=self._resources.catalog.weights_of(prepared.source),
                    device=message.device,
                )
                events.add_event(conn, self._job.id, event_texts.STARTED, now=now)
                text = event_texts.hyperparameters_chosen(_shown(asdict(numbers), self._job.method), reasons)
                events.add_event(conn, self._job.id, text, now=now, data={"reasons": reasons})
            else:
                events.add_event(conn, self._job.id, event_texts.continued(prepared.step), now=now)
        self._reports.start(prepared, message.total_steps)
        self._tell_report_trouble()

    def _record_steps(self, steps: list[StepMetrics]) -> None:
        # A resumed trainer repeats the steps after its last state; they are known already.
        new = [metrics for metrics in steps if metrics.step > self._recorded_step]
        if not new:
            return
        now, last = self._resources.clock(), new[-1]
        with write(self._resources.engine) as conn:
            self._lease.renew(conn, step=last.step, estimated_finish=int(now + last.eta_s))
            for metrics in new:
                events.add_event(
                    conn,
                    self._job.id,
                    event_texts.step_message(metrics),
                    now=now,
                    type="metrics",
                    data=event_texts.step_data(metrics),
                )
            jobs.update_details(conn, self._job.id, progress=event_texts.progress(last))
        self._recorded_step = last.step
        for metrics in new:
            self._reports.log_step(metrics)

    def _record_note(self, note: Note) -> None:
        data = note.data or {}
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            events.add_event(
                conn,
                self._job.id,
                note.message,
                now=self._resources.clock(),
                level=note.level,
                data=data,
                text=note.text,
            )
            if "advice" in data:
                advice = {"message": note.message, "texts": {"message": note.text}}
                jobs.update_details(conn, self._job.id, training_advice=advice | data)

    def _store_checkpoint(self, message: CheckpointSaved, workspace: Workspace) -> None:
        """Safe in the blobs from now on. A model once the job has ended or is paused, as OpenAI does."""
        known = {checkpoint.step: checkpoint for checkpoint in self.checkpoints}
        step = message.step
        if step in known and known[step].published:
            return  # a model's weights stay as they are, also where a resumed job comes to the same step again
        model_id = known[step].model_id if step in known else new_id("model")
        fresh = StoredCheckpoint(step, model_id, message.metrics)
        fresh = replace(fresh, num_bytes=self._upload(fresh, workspace.checkpoint(step)))
        is_new = step not in known
        known[step] = fresh
        newest = sorted(known.values(), key=lambda checkpoint: checkpoint.step)
        self.checkpoints = tuple(newest[-KEEP:])
        try:
            with write(self._resources.engine) as conn:
                self._lease.renew(conn)
                jobs.update_details(conn, self._job.id, checkpoints=self.checkpoints)
        except LeaseLost:
            if is_new:
                self._resources.blobs.delete_dir(fresh.blob)  # no row names it
            raise
        for dropped in newest[:-KEEP]:
            if not dropped.published:
                self._resources.blobs.delete_dir(dropped.blob)

    def _upload(self, checkpoint: StoredCheckpoint, folder: Path) -> int:
        """How many bytes it has."""
        return sum(file.bytes for file in self._resources.blobs.upload_dir(checkpoint.blob, folder))

    @property
    def saved_step(self) -> int:
        return self._saved.step if self._saved else 0

    def final_checkpoint(self, step: int, folder: Path) -> StoredCheckpoint:
        """That of `step`, which lies in `folder`, not yet a model: one that a pause has made a model, under a name with
        its step, is stored once more for the job's own name."""
        found = next(kept for kept in self.checkpoints if kept.step == step)
        if not found.published:
            return found
        final = StoredCheckpoint(found.step, new_id("model"), found.metrics)
        final = replace(final, num_bytes=self._upload(final, folder))
        self.checkpoints = tuple(final if kept is found else kept for kept in self.checkpoints)
        return final

    def save_state(self, workspace: Workspace) -> None:
        before = self._saved
        with self._pace.measured():
            saved = workspace.save(self._resources.blobs, self._job.id)
        if saved is None or saved == before:
            return
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            jobs.update_details(conn, self._job.id, state=saved)
        self._saved = saved
        if before is not None:
            self._resources.blobs.delete_dir(before.prefix)

    def _tell_report_trouble(self) -> None:
        for trouble in self._reports.take_trouble():
            with write(self._resources.engine) as conn:
                self._lease.renew(conn)
                events.add_event(conn, self._job.id, trouble, now=self._resources.clock(), level="warn")


def _shown(numbers: dict[str, Any], method: str) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name != "beta" or method == "dpo"}
