"""How a job ends: whether its model may be handed out, then status, models, events, ledger and outbox together, each
end in the caller's transaction.

A model that serves otherwise than it was trained is the most reported fault of this field; here it ends the job instead
of reaching a user: the engine is asked for the log-probabilities that the trainer measured.
"""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr
from sqlalchemy import Connection

from tunery.domain.files import File, FilePurpose, blob_path
from tunery.domain.ids import new_id
from tunery.domain.jobs import Checkpoint, FineTuningJob, JobError, JobStatus, Level
from tunery.domain.models import FineTunedModel
from tunery.domain.names import new_name
from tunery.domain.usage import PICO
from tunery.engines.scoring import EngineScorer, EngineUnreachable
from tunery.jobs.evaluation import start_evaluation
from tunery.jobs.resources import Resources
from tunery.metering import ledger
from tunery.metering.budget import warn_about_budget
from tunery.metering.limits import project_limits
from tunery.models.catalog import Catalog
from tunery.notify.announce import announce_end
from tunery.notify.summary import Amount
from tunery.store import claims, events, files, jobs, models, tenants
from tunery.store.database import read
from tunery.texts import say, with_texts
from tunery.training.protocol import Sample, read_samples

# bf16 keeps 8 significant bits: logits between 16 and 32 stand on a grid of 0.125, and trainer and engine order their
# sums differently. A shift of the logits moves a token's log-probability by its doubt, 1 - p, times the shift, so what
# is allowed grows with the doubt. Seen with SmolLM2-135M: 0.03 where the model was sure, 0.12 on labels it doubted.
SURE_TOLERANCE = 0.1
DOUBT_TOLERANCE = 0.2
MAX_TOLERANCE = 1.5  # of one token
WAIT_FOR_ENGINE_S = 60.0
LOOK_AGAIN_S = 1.0
FILENAME = "step_metrics.csv"
# Column of the file -> name in a metrics event.
COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
EVENTS_PER_READ = 500


@dataclass(frozen=True)
class Parity:
    num_tokens: int
    mean_difference: float
    max_difference: float
    mean_doubt: float = 0.0  # 1 - p of the trainer's own log-probabilities

    @property
    def holds(self) -> bool:
        # Written so that NaN fails.
        allowed = SURE_TOLERANCE + DOUBT_TOLERANCE * self.mean_doubt
        return self.mean_difference <= allowed and self.max_difference <= MAX_TOLERANCE


class PromptScorer(Protocol):
    """Gives the log-probability of every token of a prompt but the first."""

    def score(self, model: str, token_ids: list[int]) -> list[float]: ...


def compare(samples: list[Sample], scorer: PromptScorer, model: str) -> Parity:
    """Raises EngineUnreachable. NaN anywhere makes the result NaN, which does not hold."""
    differences: list[float] = []
    for sample in samples:
        served = scorer.score(model, sample.token_ids)
        # The first token of a prompt has no log-probability: token i stands at i - 1.
        mine = served[sample.start - 1 : sample.start - 1 + len(sample.logprobs)]
        differences += [abs(a - b) for a, b in zip(mine, sample.logprobs, strict=True)]
    if not differences:
        return Parity(0, 0.0, 0.0)
    largest = float("nan") if any(d != d for d in differences) else max(differences)
    doubts = [1 - math.exp(logprob) for sample in samples for logprob in sample.logprobs]
    return Parity(len(differences), sum(differences) / len(differences), largest, sum(doubts) / len(doubts))


class ParityBroken(Exception):
    """The engine serves another model than was trained. The message is the job's error."""


@dataclass(frozen=True)
class ParityReport:
    message: str
    level: Level = "info"
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    is_checked: bool = True  # the served model was compared with the trained one


def check_parity(
    samples_file: Path | None,
    adapter: Path,
    model_id: str,
    *,
    source: str,
    engines: list[str],
    catalog: Catalog,
    key: SecretStr | None = None,
    start: Callable[[], str | None] | None = None,
) -> ParityReport:
    """Raises ParityBroken. An engine that cannot be asked costs the check, not the job: the report says so.

    `source`: the base that the adapter was trained on, as in the catalog; `engines`: addresses; `key`: of all
    of them; `start`: has an engine started where none of these has the base, and gives its address.
    """
    is_there = bool(engines or start)
    if samples_file is None or not is_there:
        return _unchecked(say("event.parity.no_examples") if is_there else say("event.parity.no_engine"))
    engine = find_engine(engines, source, catalog, key=key, start=start)
    if engine is None:
        return _unchecked(say("event.parity.no_answer", source=source, seconds=WAIT_FOR_ENGINE_S))
    name = f"{model_id}-parity"
    try:
        with engine.adapter(name, adapter):
            parity = compare(read_samples(samples_file), engine, name)
    except EngineUnreachable as exc:
        return _unchecked(exc.args[0])
    if not parity.holds:
        raise ParityBroken(say("event.parity.broken", difference=_difference(parity)))
    return ParityReport(
        say("event.parity.holds", difference=_difference(parity)),
        details={
            "num_tokens": parity.num_tokens,
            "mean_difference": parity.mean_difference,
            "max_difference": parity.max_difference,
        },
    )


def find_engine(
    engines: list[str], source: str, catalog: Catalog, *, key: SecretStr | None, start: Callable[[], str | None] | None
) -> EngineScorer | None:
    """The first that has the base, which may be starting; where `start` has one started, that."""
    scorers = [EngineScorer(url, key) for url in engines]
    deadline = time.monotonic() + (0 if start else WAIT_FOR_ENGINE_S)
    while True:
        for engine in scorers:
            if catalog.served_as(source, engine.bases(), is_only_engine=len(scorers) == 1):
                return engine
        if time.monotonic() >= deadline:
            break
        time.sleep(LOOK_AGAIN_S)
    url = start() if start else None
    return EngineScorer(url, key) if url else None


def _unchecked(why: str) -> ParityReport:
    text = say("event.parity.unchecked", reason=why)
    return ParityReport(text, level="warn", details=with_texts({"unchecked": why}), is_checked=False)


def _difference(parity: Parity) -> str:
    return say(
        "event.parity.difference",
        tokens=parity.num_tokens,
        mean=f"{parity.mean_difference:.4f}",  # as text: JSON has no NaN
        most=f"{parity.max_difference:.4f}",
    )


# ---- the ends, each in the caller's transaction


def publish_checkpoints(
    conn: Connection,
    job: FineTuningJob,
    *,
    final_step: int | None = None,
    trained_tokens: int = 0,
    now: float,
) -> str:
    """Make the stored checkpoints usable as models, those that are not yet. That of final_step has the job's own name,
    which is returned; the names of the others end in their step. Only a job that succeeds has a final step."""
    organization = tenants.get_organization(conn, job.organization_id)
    final_name = ""
    kept = job.details.checkpoints
    for checkpoint in (each for each in kept if not each.published):
        is_final = checkpoint.step == final_step
        named = new_name(base=job.base_model, organization=organization.slug, suffix=job.suffix)
        name = str(named if is_final else replace(named, step=checkpoint.step))
        final_name = name if is_final else final_name
        models.insert_model(
            conn,
            FineTunedModel(
                id=checkpoint.model_id,
                name=name,
                project_id=job.project_id,
                created_at=int(now),
                base_model=job.base_model,
                source=job.details.source or "",
                job_id=job.id,
                step_number=checkpoint.step,
                blob=checkpoint.blob,
                owned_by=job.organization_id,
                trained_tokens=trained_tokens if is_final else 0,
                display_name=job.display_name,
                num_bytes=checkpoint.num_bytes,
                base_sha256=job.details.base_sha256,
            ),
        )
        events.delete_checkpoint(conn, job.id, checkpoint.step)  # the final one's, from a pause after the last step
        events.add_checkpoint(
            conn,
            Checkpoint(
                id=new_id("checkpoint"),
                job_id=job.id,
                created_at=int(now),
                step_number=checkpoint.step,
                fine_tuned_model_checkpoint=name,
                metrics={"step": checkpoint.step, **checkpoint.metrics},
            ),
        )
        told = say("event.checkpoint_created", step=checkpoint.step, name=name)
        events.add_event(conn, job.id, told, now=now, data={})
    if kept:
        published = tuple(replace(checkpoint, published=True) for checkpoint in kept)
        jobs.update_details(conn, job.id, checkpoints=published)
    return final_name


def step_metrics_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Five decimals, and an empty cell where nothing was measured. Of two rows for a step the later one counts:
    a job that resumed trains the steps after its last saved state again."""
    by_step = {int(row["step"]): row for row in rows}
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step in sorted(by_step):
        writer.writerow([step, *(_cell(by_step[step].get(key)) for key in list(COLUMNS.values())[1:])])
    return out.getvalue().encode()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def store_result_file(job: FineTuningJob, resources: Resources) -> File:
    """The bytes only: its row belongs into the transaction that ends the job."""
    rows = list(_metric_rows(job, resources))
    file_id = new_id("file")
    info = resources.blobs.put(blob_path(file_id), step_metrics_csv(rows))
    return File(
        id=file_id,
        project_id=job.project_id,
        created_at=int(resources.clock()),
        filename=FILENAME,
        purpose=FilePurpose.FINE_TUNE_RESULTS,
        bytes=info.bytes,
        sha256=info.sha256,
        blob=info.path,
    )


def succeed(
    conn: Connection,
    job: FineTuningJob,
    resources: Resources,
    worker_id: str,
    *,
    final_step: int,
    parity: ParityReport,
    result_file: File,
    trained_tokens: int,
) -> FineTuningJob:
    """The whole success in the caller's transaction: either all of it is seen or the job runs on."""
    now = resources.clock()
    job = jobs.get_job(conn, job.id)
    name = publish_checkpoints(conn, job, final_step=final_step, trained_tokens=trained_tokens, now=now)
    events.add_event(conn, job.id, say("event.model_created", name=name), now=now, data={})
    if parity.is_checked:
        # Clients look for "usage policies" to tell that training is over. Here it tells that parity was checked.
        events.add_event(conn, job.id, say("event.policies"), now=now, data={"check": "parity"})
    events.add_event(conn, job.id, parity.message, now=now, level=parity.level, data=parity.details)
    files.insert_file(conn, result_file)
    done = claims.finish_succeeded(
        conn,
        job.id,
        worker_id,
        fine_tuned_model=name,
        result_files=(result_file.id,),
        trained_tokens=trained_tokens,
        now=now,
    )
    cost = _bill(conn, done, resources, now=now)
    events.add_event(conn, job.id, say("event.completed"), now=now, data={})
    announce_end(conn, done, now=now, cost=cost)
    if (key_id := done.details.eval_key_id) is not None:
        start_evaluation(conn, done, key_id, now=now)
    return done


def _bill(conn: Connection, job: FineTuningJob, resources: Resources, *, now: float) -> Amount:
    """Enter the trained tokens into the ledger, once a job; what they cost."""
    prices, settings = resources.prices, resources.settings
    record = ledger.record_training(conn, job, prices=prices, trained_tokens=job.trained_tokens or 0, now=now)
    limits = project_limits(conn, settings, job.project_id)
    warn_about_budget(conn, job.project_id, limits, currency=prices.currency, now=now)
    return Amount(record.cost.total / PICO, record.currency)


def _metric_rows(job: FineTuningJob, resources: Resources) -> Iterator[dict[str, Any]]:
    """Oldest last, as events are read; the result file sorts by step."""
    after: str | None = None
    while True:
        with read(resources.engine) as conn:
            page = events.list_events(conn, job.id, after=after, limit=EVENTS_PER_READ)
        yield from (event.data for event in page.items if event.type == "metrics" and event.data)
        if not page.has_more:
            return
        after = page.items[-1].id


def reject(
    conn: Connection, job_id: str, worker_id: str, error: JobError, *, problems: list[dict[str, Any]], now: float
) -> None:
    """The files cannot be used. `problems`: line, message and suggestion of the first ones, for the mail."""
    jobs.update_details(conn, job_id, problems=problems)
    job = claims.reject_job(conn, job_id, worker_id, error=error, now=now)
    tell_failure(conn, job, now=now)


def fail(
    conn: Connection,
    job_id: str,
    worker_id: str,
    error: JobError,
    *,
    now: float,
    resumable: bool = False,
    publish: bool = True,
) -> None:
    """`publish`: checkpoints that are safe become models of their own, so that what was trained is not lost."""
    job = claims.fail_job(conn, job_id, worker_id, error=error, now=now, resumable=resumable)
    if publish:
        publish_checkpoints(conn, job, now=now)
    tell_failure(conn, job, now=now)
    if resumable:
        events.add_event(conn, job_id, say("event.kept"), now=now)


def pause(conn: Connection, job_id: str, worker_id: str, *, now: float) -> None:
    tell_pause(conn, claims.pause_job(conn, job_id, worker_id, now=now), now=now)


def tell_stalled(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    """What became of a job whose worker fell silent."""
    if job.status is JobStatus.CANCELLED:
        tell_cancellation(conn, job, now=now)
    elif job.status is JobStatus.PAUSED:
        tell_pause(conn, job, now=now)
    else:
        events.add_event(conn, job.id, say("event.worker_lost"), now=now, level="warn")


def tell_failure(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    assert job.error is not None
    data = {"error_code": job.error.code}
    events.add_event(conn, job.id, job.error.message, now=now, level="error", data=data, text=job.error.text)
    announce_end(conn, job, now=now)


def tell_pause(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    """A pause leaves models to try, as OpenAI's does."""
    publish_checkpoints(conn, job, now=now)
    events.add_event(conn, job.id, say("event.paused"), now=now)


def tell_cancellation(conn: Connection, job: FineTuningJob, *, now: float, by: str | None = None) -> None:
    """`by`: the user who cancelled it. Whoever cancels a job of their own knows, and gets no mail."""
    publish_checkpoints(conn, job, now=now)
    events.add_event(conn, job.id, say("event.cancelled"), now=now)
    announce_end(conn, job, now=now, mail=by is None or by != job.created_by)
