"""Removes what jobs that have ended left on the disk and in the blobs, and what is kept for a time only."""

import shutil

from tunery.domain.ids import PREFIXES
from tunery.jobs.resources import Resources
from tunery.store import batches, evals, jobs, models, transfers
from tunery.store.database import read, write
from tunery.store.expiry import remove_expired, remove_old_responses
from tunery.store.storage import forget_reservations

DAY_S = 86_400.0
LEASED = {
    PREFIXES["batch"]: batches.LEASES,
    PREFIXES["eval_run"]: evals.LEASES,
    PREFIXES["export"]: transfers.LEASES,
    PREFIXES["import"]: transfers.LEASES,
}


def clean(resources: Resources) -> None:
    _forget_states(resources)
    _clean_workspaces(resources)
    _clean_job_blobs(resources)
    _clean_mail_folder(resources)
    remove_expired(resources.engine, resources.blobs, resources.clock())
    oldest = resources.clock() - resources.settings.stored_response_days * DAY_S
    remove_old_responses(resources.engine, oldest)
    with write(resources.engine) as conn:
        forget_reservations(conn, resources.clock())


def _clean_workspaces(resources: Resources) -> None:
    work = resources.settings.home / "work"
    if not work.exists():
        return
    for folder in work.iterdir():
        # Checks clean up after themselves unless they are killed.
        is_over = _has_ended if folder.name.startswith("ftjob-") else _is_left_alone
        if is_over(resources, folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left_alone(resources: Resources, name: str) -> bool:
    """The folder of a batch, a run, an export or an import that nobody works on; another fetches its files anew."""
    leases = next((leases for prefix, leases in LEASED.items() if name.startswith(prefix)), None)
    with read(resources.engine) as conn:
        return leases is not None and not leases.is_held(conn, name, now=resources.clock())


def _clean_job_blobs(resources: Resources) -> None:
    """States and, where no model came of them, checkpoints: a paused job is cancelled without a worker."""
    job_ids = {path.split("/")[1] for path in resources.blobs.list("jobs")}
    for job_id in job_ids:
        if not _has_ended(resources, job_id):
            continue
        with read(resources.engine) as conn:
            job = jobs.find_job(conn, job_id)
            kept = {model.id for model in models.list_models_of_job(conn, job_id)}
        for checkpoint in job.details.checkpoints if job else ():
            if checkpoint.model_id not in kept:
                resources.blobs.delete_dir(checkpoint.blob)
        resources.blobs.delete_dir(f"jobs/{job_id}")


def _has_ended(resources: Resources, job_id: str) -> bool:
    with read(resources.engine) as conn:
        job = jobs.find_job(conn, job_id)
    # A job that this database does not know may be another installation's.
    return job is not None and job.is_terminal and not job.can_be_resumed


def _forget_states(resources: Resources) -> None:
    """A failed job that was not resumed in time: what it had reached goes with the rest of what it left."""
    with write(resources.engine) as conn:
        jobs.forget_states(conn, failed_before=resources.clock() - resources.settings.kept_state_days * DAY_S)


def _clean_mail_folder(resources: Resources) -> None:
    """Mail that was written to files because no SMTP server is configured."""
    oldest = resources.clock() - resources.settings.mail_folder_days * DAY_S
    for mail in resources.settings.mail_folder.glob("*.eml"):
        if mail.stat().st_mtime < oldest:
            mail.unlink(missing_ok=True)
