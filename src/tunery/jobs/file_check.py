"""Checks a job's files before it may queue. The answer is the job's own: accepted, or failed with OpenAI's words."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunery.chat.render import Renderer
from tunery.datasets.job_errors import first_job_error
from tunery.datasets.report import Report, Role
from tunery.datasets.validate import validate_file
from tunery.datasets.work import EpochCounts
from tunery.domain.errors import TuneryError
from tunery.domain.jobs import FineTuningJob, JobError
from tunery.jobs import endings
from tunery.jobs.hold import Lease, LeaseLost
from tunery.jobs.resources import Resources
from tunery.jobs.workspace import fetch_file
from tunery.models.sources import cache as sources
from tunery.store import claims, events, jobs
from tunery.store.database import write
from tunery.texts import say, with_texts

log = logging.getLogger(__name__)

MAX_PROBLEMS = 10  # shown in mail and dashboard; the full report is the validation route's


@dataclass(frozen=True)
class Verdict:
    error: JobError | None = None
    problems: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # the first ones, for people
    facts: dict[str, Any] = field(default_factory=dict[str, Any])  # for the run and for /tunery/v1
    remarks: list[str] = field(default_factory=list[str])


def validate_job(job: FineTuningJob, resources: Resources, worker_id: str) -> None:
    """Read both files once and move the job on. Leaves the job alone when it was cancelled or paused meanwhile."""
    lease = Lease(
        resources.engine,
        job.id,
        worker_id=worker_id,
        lease_s=resources.settings.lease_s,
        on_beat=lambda _: None,
        clock=resources.clock,
    )
    with lease:
        try:
            verdict = _check(job, resources)
        except TuneryError as exc:
            verdict = Verdict(JobError(exc.code or "server_error", exc.message, exc.param))
        except Exception:
            log.exception("the files of %s could not be checked", job.id)
            verdict = Verdict(JobError("server_error", say("event.files_not_checked")))
    now = resources.clock()
    try:
        with write(resources.engine) as conn:
            lease.renew(conn)
            if verdict.error is not None:
                endings.reject(conn, job.id, worker_id, verdict.error, problems=verdict.problems, now=now)
                return
            jobs.update_details(conn, job.id, **verdict.facts)
            claims.accept_job(conn, job.id, worker_id)
            for remark in verdict.remarks:
                events.add_event(conn, job.id, remark, now=now, level="warn")
            events.add_event(conn, job.id, say("event.validated"), now=now, data={})
    except LeaseLost:
        log.info("%s was cancelled, paused or taken over while its files were checked", job.id)


def _check(job: FineTuningJob, resources: Resources) -> Verdict:
    base = resources.catalog.resolve(job.base_model)
    model_dir = sources.ensure(base.source, resources.settings.models_dir)
    renderer = Renderer.from_dir(model_dir, completes=base.completes)
    reports: dict[Role, Report] = {}
    work = resources.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="check-", dir=work) as folder:
        for role, file_id in _files(job):
            path = Path(folder) / f"{role}.jsonl"
            fetch_file(resources, job, file_id, role, path)
            report = reports[role] = validate_file(
                path,
                method=job.method,
                renderer=renderer,
                max_example_tokens=base.max_example_tokens,
                languages=resources.catalog.languages_of(base),
                role=role,
                against=reports.get("training"),
            )
            error = first_job_error(report, file_id)
            if error is not None:
                return Verdict(error, _problems(report))
    return Verdict(facts=_facts(reports), remarks=_remarks(reports))


def _files(job: FineTuningJob) -> Iterator[tuple[Role, str]]:
    yield "training", job.training_file
    if job.validation_file is not None:
        yield "validation", job.validation_file


def _facts(reports: dict[Role, Report]) -> dict[str, Any]:
    training = reports["training"]
    return {
        "num_examples": training.num_examples,
        "num_tokens": training.tokens.tokens.total if training.tokens else None,  # of one epoch
        "epoch_counts": asdict(EpochCounts.of(training.tokens, training.num_examples)) if training.tokens else None,
        "data_advice": [advice.to_dict() for report in reports.values() for advice in report.advice],
    }


def _remarks(reports: dict[Role, Report]) -> list[str]:
    """What is done to the files without being asked."""
    remarks: list[str] = []
    for role, report in reports.items():
        remarks += [problem.message for problem in report.problems if problem.code == "turned_into_chat"]
        first = next((problem.message for problem in report.problems if problem.code == "arguments_not_text"), None)
        if first is not None:
            count = report.problem_counts["arguments_not_text"]
            remarks.append(say(f"event.arguments_{role}", count=count, first=first))
        if untrained := report.problem_counts["answer_cut"]:
            remarks.append(say(f"event.untrained_{role}", count=untrained))
        if report.tokens and report.tokens.num_truncated_examples:
            most = report.tokens.max_example_tokens
            remarks.append(say(f"event.truncated_{role}", count=report.tokens.num_truncated_examples, most=most))
    return remarks


def _problems(report: Report) -> list[dict[str, Any]]:
    found = [problem for problem in report.problems if problem.severity == "error"]
    return [
        with_texts({"line": problem.line or None, "message": problem.message, "suggestion": problem.suggestion})
        for problem in found[:MAX_PROBLEMS]
    ]
