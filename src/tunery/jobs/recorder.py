"""Writes down what a trainer says, as it says it: events, progress, checkpoints and states. Reports it to the services
that the job names, and remembers how long it took."""

import logging
import time
from dataclasses import asdict, replace
from typing import Any

from tunery.datasets.estimate import billable_tokens
from tunery.datasets.speed import PastJob, record
from tunery.datasets.work import EpochCounts, training_flop
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
from tunery.domain.job_details import StoredCheckpoint
from tunery.domain.jobs import FineTuningJob
from tunery.jobs.hold import Lease, LeaseLost
from tunery.jobs.resources import Resources
from tunery.jobs.runner import Trainer
from tunery.jobs.samples import Sampler
from tunery.jobs.wandb import IntegrationFailed, WandbRun
from tunery.jobs.workspace import Prepared
from tunery.models.config import read_sizes
from tunery.models.sources import cache as sources
from tunery.store import claims, events, jobs
from tunery.store.database import write
from tunery.texts import reference, say
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
    RateFound,
    Started,
    StateSaved,
    StepMetrics,
    Stopped,
)

log = logging.getLogger(__name__)

PROGRESS_KEYS = ("step", "total_steps", "epoch", "lr", "grad_norm", "tokens_per_s", "eta_s")
# A step's sentence, by the validation losses that were measured at it.
_STEPS: dict[tuple[str, ...], str] = {
    (): "event.step",
    ("valid_loss",): "event.step.valid_loss",
    ("full_valid_loss",): "event.step.full_valid_loss",
    ("valid_loss", "full_valid_loss"): "event.step.both",
}


class Recorder:
    """Every transaction renews the lease first, so nothing is written for a job that another worker has."""

    def __init__(self, job: FineTuningJob, resources: Resources, lease: Lease, reports: "Reports") -> None:
        self._job, self._resources, self._lease, self._reports = job, resources, lease, reports
        self._recorded_step = job.step
        self._saved = job.details.state
        self._pace = Pace(resources.settings.state_interval_s)  # of uploads; the trainer keeps its own
        self.checkpoints = job.details.checkpoints
        self.sampler = Sampler(job, resources, lease) if job.sample_prompts else None
        self.has_started = False
        self._started_s = time.monotonic()
        self.training_s = 0.0  # from the first step to the last word
        self.has_samples = False  # for the parity check
        self.last_word: LastWord | None = None

    def record(self, messages: list[Message], prepared: Prepared, trainer: Trainer) -> None:
        """Steps that came together are written together; whatever needs the blobs is done outside of transactions."""
        steps: list[StepMetrics] = []
        for message in messages:
            if isinstance(message, StepMetrics):
                steps.append(message)
                continue
            self._record_steps(steps)
            steps = []
            self._record_other(message, prepared, trainer)
        self._record_steps(steps)

    def _record_other(self, message: Message, prepared: Prepared, trainer: Trainer) -> None:
        match message:
            case Started():
                self._record_start(message, prepared, trainer)
            case CheckpointSaved():
                self._store_checkpoint(message, prepared, trainer)
            case StateSaved():
                if self._pace.is_due():
                    self.save_state(trainer)
            case Note():
                self._record_note(message)
            case ParitySamples():
                self.has_samples = True
            case Finished() | Failed() | Stopped():
                self.last_word = message
                self.training_s = time.monotonic() - self._started_s
            case StepMetrics() | RateFound():
                pass  # the first are recorded together, above; the second no job says

    def _record_start(self, message: Started, prepared: Prepared, trainer: Trainer) -> None:
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
            jobs.update_details(conn, self._job.id, node=trainer.node)
            if first:
                jobs.update_details(
                    conn,
                    self._job.id,
                    hyperparameter_reasons=reasons,
                    texts=reference({"reasons": reasons}) or {},
                    source=prepared.inputs.source,
                    base_sha256=prepared.inputs.base_sha256,
                    weights=self._resources.catalog.weights_of(prepared.inputs.source),
                    device=message.device,
                )
                events.add_event(conn, self._job.id, say("event.started"), now=now)
                text = _chosen(numbers, self._job.method, reasons)
                events.add_event(conn, self._job.id, text, now=now, data={"reasons": reasons})
            else:
                events.add_event(conn, self._job.id, say("event.continued", step=trainer.step), now=now)
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
                    step_message(metrics),
                    now=now,
                    type="metrics",
                    data=step_data(metrics),
                )
            jobs.update_details(conn, self._job.id, progress=_progress(last))
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

    def _store_checkpoint(self, message: CheckpointSaved, prepared: Prepared, trainer: Trainer) -> None:
        """Safe in the blobs from now on. A model once the job has ended or is paused, as OpenAI does."""
        known = {checkpoint.step: checkpoint for checkpoint in self.checkpoints}
        step = message.step
        if step in known and known[step].published:
            return  # a model's weights stay as they are, also where a resumed job comes to the same step again
        model_id = known[step].model_id if step in known else new_id("model")
        fresh = StoredCheckpoint(step, model_id, message.metrics)
        fresh = replace(fresh, num_bytes=trainer.store_checkpoint(step, fresh.blob))
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
        if self.sampler is not None:
            prepared.workspace.restore_checkpoint(self._resources.blobs, step, fresh.blob)
            self.sampler.ask(fresh, prepared.workspace.checkpoint(step), prepared.inputs.source)

    @property
    def saved_step(self) -> int:
        return self._saved.step if self._saved else 0

    def final_checkpoint(self, step: int, trainer: Trainer) -> StoredCheckpoint:
        """That of `step`, not yet a model: one that a pause has made a model, under a name with its step, is stored
        once more for the job's own name."""
        found = next(kept for kept in self.checkpoints if kept.step == step)
        if not found.published:
            return found
        final = StoredCheckpoint(found.step, new_id("model"), found.metrics)
        final = replace(final, num_bytes=trainer.store_checkpoint(step, final.blob))
        self.checkpoints = tuple(final if kept is found else kept for kept in self.checkpoints)
        return final

    def save_state(self, trainer: Trainer) -> None:
        before = self._saved
        with self._pace.measured():
            saved = trainer.save_state()
        if saved is None or (before is not None and saved.prefix == before.prefix):
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


# ---- the words of events, as clients of OpenAI's API search for them


def _chosen(numbers: Hyperparameters, method: str, reasons: dict[str, str]) -> str:
    """One sentence with every number and why it is that number."""
    parts = [
        say("event.hyperparameter", name=name, value=f"{value:g}", reason=reasons.get(name) or say("reason.chosen"))
        for name, value in asdict(numbers).items()
        if name != "beta" or method == "dpo"
    ]
    return say("event.hyperparameters", values=parts)


def step_message(metrics: StepMetrics) -> str:
    """`Step 1/303: training loss=0.73, validation loss=1.46`: two decimals, only the losses that were measured."""
    measured_too = tuple(name for name in ("valid_loss", "full_valid_loss") if getattr(metrics, name) is not None)
    return say(
        _STEPS[measured_too],
        step=metrics.step,
        total=metrics.total_steps,
        train_loss=_loss(metrics.train_loss),
        **{name: _loss(getattr(metrics, name)) for name in measured_too},
    )


def step_data(metrics: StepMetrics) -> dict[str, Any]:
    """The event's `data`: full floats, and nothing that was not measured at this step."""
    return {"step": metrics.step, "total_steps": metrics.total_steps, **metrics.measured}


def _loss(loss: float | None) -> str:
    return "nan" if loss is None else f"{loss:.2f}"


def _progress(metrics: StepMetrics) -> dict[str, Any]:
    """What the job's details tell of the newest step, beside the losses in the events."""
    return {key: value for key in PROGRESS_KEYS if (value := getattr(metrics, key)) is not None}


# ---- for others


class Reports:
    def __init__(self, job: FineTuningJob, resources: Resources) -> None:
        self._job, self._resources = job, resources
        self._runs: list[WandbRun] = []
        self._trouble: list[str] = []

    def start(self, prepared: Prepared, total_steps: int) -> None:
        key = self._resources.settings.wandb_api_key
        for integration in self._job.integrations or ():
            try:
                if key is None:
                    raise IntegrationFailed(say("event.wandb.no_key"))
                run = WandbRun.start(
                    self._job,
                    integration["wandb"],
                    api_key=key.get_secret_value(),
                    folder=self._resources.settings.home,
                    config=self._config(prepared, total_steps),
                )
            except IntegrationFailed as exc:
                self._trouble.append(say("event.wandb.left_out", reason=exc.args[0]))
            else:
                self._runs.append(run)

    def take_trouble(self) -> list[str]:
        """What went wrong since the last call, as messages for events."""
        trouble, self._trouble = self._trouble, []
        return trouble

    def log_step(self, metrics: StepMetrics) -> None:
        for run in self._runs:
            run.log_step(metrics)

    def finish(self, *, summary: dict[str, Any], succeeded: bool) -> None:
        for run in self._runs:
            run.finish(summary=summary, succeeded=succeeded)

    def _config(self, prepared: Prepared, total_steps: int) -> dict[str, Any]:
        job = self._job
        return {
            "fine_tuning_job_id": job.id,
            "model": job.model,
            "training_file": job.training_file,
            "validation_file": job.validation_file,
            "method": job.method,
            "seed": job.seed,
            "total_steps": total_steps,
            **asdict(prepared.numbers),
        }


def remember_speed(
    job: FineTuningJob,
    prepared: Prepared,
    resources: Resources,
    *,
    first_step: int,
    trained_tokens: int,
    training_s: float,
    total_s: float,
) -> None:
    """After a job that ran all its steps in one go; others tell nothing. A failure to write costs only precision."""
    known, chosen = job.details.epoch_counts, prepared.hyperparameters
    source = prepared.inputs.source
    model_dir = sources.cached(source, resources.settings.models_dir)
    if known is None or model_dir is None or first_step:
        return
    counts = EpochCounts(**known)
    if trained_tokens != billable_tokens(counts.num_tokens, chosen.n_epochs):  # it was stopped early
        return
    flop = training_flop(counts, chosen, method=job.method, sizes=read_sizes(model_dir))
    try:
        past = PastJob(flop, training_s=training_s, overhead_s=max(0.0, total_s - training_s))
        record(resources.settings.home, source, job.method, past)
    except OSError:
        log.warning("the speed of %s could not be remembered", job.id, exc_info=True)
