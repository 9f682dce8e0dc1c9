"""Writes down what a trainer says, as it says it: events, progress, checkpoints and states."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob
from tunery.jobs import event_texts
from tunery.jobs.checkpoints import KEPT, StoredCheckpoint, stored_checkpoints
from tunery.jobs.lease import Lease, LeaseLost
from tunery.jobs.preparation import Prepared
from tunery.jobs.reports import Reports
from tunery.jobs.resources import Resources
from tunery.jobs.trainer_process import Message
from tunery.jobs.workspace import SavedState, Workspace
from tunery.store import claims, events, jobs
from tunery.store.database import write
from tunery.texts import reference
from tunery.training.pace import Pace

log = logging.getLogger(__name__)


class Recorder:
    """Every transaction renews the lease first, so nothing is written for a job that another worker has."""

    def __init__(self, job: FineTuningJob, resources: Resources, lease: Lease, reports: Reports) -> None:
        self._job, self._resources, self._lease, self._reports = job, resources, lease, reports
        self._recorded_step = job.step
        self._saved = SavedState(**job.details["state"]) if job.details.get("state") else None
        self._pace = Pace(resources.settings.state_interval_s)  # of uploads; the trainer keeps its own
        self.checkpoints = stored_checkpoints(job)
        self.has_started = False
        self._started_s = time.monotonic()
        self.training_s = 0.0  # from the first step to the last word
        self.parity_file: Path | None = None
        self.last_word: Message | None = None  # finished, paused or failed

    def hear(self, said: list[Message], prepared: Prepared) -> None:
        """Steps that came together are written together; whatever needs the blobs is done outside of transactions."""
        steps: list[Message] = []
        for message in said:
            if message["type"] == "metrics":
                steps.append(message)
                continue
            self._record_steps(steps)
            steps = []
            self._hear_other(message, prepared)
        self._record_steps(steps)

    def _hear_other(self, message: Message, prepared: Prepared) -> None:
        match message["type"]:
            case "started":
                self._record_start(message, prepared)
            case "checkpoint":
                self._store_checkpoint(message)
            case "state":
                if self._pace.is_due():
                    self.save_state(prepared.workspace)
            case "message":
                self._record_message(message)
            case "parity":
                self.parity_file = Path(message["path"])
            case "finished" | "paused" | "failed":
                self.last_word = message
                self.training_s = time.monotonic() - self._started_s
            case other:
                log.warning("%s: the trainer said %r, which means nothing here", self._job.id, other)

    def _record_start(self, message: Message, prepared: Prepared) -> None:
        self.has_started = True
        self._started_s = time.monotonic()
        numbers, now = prepared.numbers, self._resources.clock()
        reasons = prepared.hyperparameters.reasons
        first = not self._job.total_steps
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            claims.start_job(
                conn, self._job.id, self._lease.worker_id, hyperparameters=numbers, total_steps=message["total_steps"]
            )
            if first:
                jobs.update_details(
                    conn,
                    self._job.id,
                    {
                        "hyperparameter_reasons": reasons,
                        "texts": reference({"reasons": reasons}),
                        "source": prepared.source,
                        "weights": self._resources.catalog.weights_of(prepared.source),
                        "device": message.get("device"),
                    },
                )
                events.add_event(conn, self._job.id, event_texts.STARTED, now=now)
                text = event_texts.hyperparameters_chosen(_shown(asdict(numbers), self._job.method), reasons)
                events.add_event(conn, self._job.id, text, now=now, data={"reasons": reasons})
            else:
                events.add_event(conn, self._job.id, event_texts.continued(prepared.step), now=now)
        self._reports.start(prepared, message["total_steps"])
        self._tell_report_trouble()

    def _record_steps(self, said: list[Message]) -> None:
        # A resumed trainer repeats the steps after its last state; they are known already.
        new = [metrics for metrics in said if metrics["step"] > self._recorded_step]
        if not new:
            return
        now, last = self._resources.clock(), new[-1]
        finish = None if last.get("eta_s") is None else int(now + last["eta_s"])
        with write(self._resources.engine) as conn:
            self._lease.renew(conn, step=last["step"], estimated_finish=finish)
            for metrics in new:
                events.add_event(
                    conn,
                    self._job.id,
                    event_texts.step_message(metrics),
                    now=now,
                    type="metrics",
                    data=event_texts.step_data(metrics),
                )
            jobs.update_details(conn, self._job.id, {"progress": event_texts.progress(last)})
        self._recorded_step = last["step"]
        for metrics in new:
            self._reports.log_step(metrics)

    def _record_message(self, message: Message) -> None:
        data = message.get("data") or {}
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            events.add_event(
                conn,
                self._job.id,
                message["message"],
                now=self._resources.clock(),
                level=message.get("level", "info"),
                data=data,
                text=message.get("text"),
            )
            if "advice" in data:
                advice = {"message": message["message"], "texts": {"message": message.get("text")}}
                jobs.update_details(conn, self._job.id, {"training_advice": advice | data})

    def _store_checkpoint(self, message: Message) -> None:
        """Safe in the blobs from now on. A model once the job has ended or is paused, as OpenAI does."""
        known = {checkpoint.step: checkpoint for checkpoint in self.checkpoints}
        step = message["step"]
        if step in known and known[step].published:
            return  # a model's weights stay as they are, also where a resumed job comes to the same step again
        model_id = known[step].model_id if step in known else new_id("model")
        fresh = StoredCheckpoint(step, model_id, event_texts.measured(message.get("metrics") or {}))
        self._resources.blobs.upload_dir(fresh.blob, Path(message["dir"]))
        is_new = step not in known
        known[step] = fresh
        newest = sorted(known.values(), key=lambda checkpoint: checkpoint.step)
        self.checkpoints = newest[-KEPT:]
        try:
            with write(self._resources.engine) as conn:
                self._lease.renew(conn)
                jobs.update_details(conn, self._job.id, {"checkpoints": [asdict(kept) for kept in self.checkpoints]})
        except LeaseLost:
            if is_new:
                self._resources.blobs.delete_dir(fresh.blob)  # no row names it
            raise
        for dropped in newest[:-KEPT]:
            if not dropped.published:
                self._resources.blobs.delete_dir(dropped.blob)

    @property
    def saved_step(self) -> int:
        return self._saved.step if self._saved else 0

    def final_checkpoint(self, folder: Path) -> StoredCheckpoint:
        """The checkpoint that lies in the trainer's `folder`, not yet a model: one that a pause has made a model, under
        a name with its step, is stored once more for the job's own name."""
        found = next(kept for kept in self.checkpoints if f"step-{kept.step}" == folder.name)
        if not found.published:
            return found
        final = StoredCheckpoint(found.step, new_id("model"), found.metrics)
        self._resources.blobs.upload_dir(final.blob, folder)
        self.checkpoints = [final if kept is found else kept for kept in self.checkpoints]
        return final

    def final_details(self, final: StoredCheckpoint, parity: dict[str, Any]) -> dict[str, Any]:
        """What the job's row tells once it has succeeded."""
        kept = [asdict(checkpoint) for checkpoint in self.checkpoints]
        return {"metrics": final.metrics, "parity": parity, "state": None, "checkpoints": kept}

    def save_state(self, workspace: Workspace) -> None:
        before = self._saved
        with self._pace.measured():
            saved = workspace.save(self._resources.blobs, self._job.id)
        if saved is None or saved == before:
            return
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            jobs.update_details(conn, self._job.id, {"state": asdict(saved)})
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
