"""What a project and a key may use: settings, then the project's own limits, then the key's."""

from datetime import UTC, datetime

from sqlalchemy import Connection

from tunery.domain.errors import RateLimited
from tunery.domain.limits import Limits
from tunery.settings import Settings
from tunery.store import jobs
from tunery.store import limits as store
from tunery.texts import say

DAY_S = 86_400
WARNING_PERCENT = 80


def limits_of_settings(settings: Settings) -> Limits:
    return Limits(
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
        max_running_jobs=settings.max_running_jobs,
        max_jobs_per_day=settings.max_jobs_per_day,
        max_storage_bytes=settings.max_storage_bytes,
        monthly_budget=settings.monthly_budget,
        warning_percent=WARNING_PERCENT,
    )


def project_limits(conn: Connection, settings: Settings, project_id: str) -> Limits:
    """Every field is a number; 0 = no limit."""
    own = store.get_limits(conn, project_id).get(project_id, Limits())
    return own.over(limits_of_settings(settings))


def subject_limits(conn: Connection, settings: Settings, project_id: str, key_id: str) -> dict[str, Limits]:
    """The project's and the key's, by id. A key has only the limits that were set for it."""
    found = store.get_limits(conn, project_id, key_id)
    of_settings = limits_of_settings(settings)
    project = found[project_id].over(of_settings) if project_id in found else of_settings
    return {project_id: project} | ({key_id: found[key_id]} if key_id in found else {})


def check_new_job(conn: Connection, project_id: str, limits: Limits, *, model: str, now: float) -> None:
    """Raises RateLimited when the project, with these limits, has made as many jobs in the last 24 hours as it may.

    Jobs at once are no error: those too many wait in the queue.
    """
    limit = limits.max_jobs_per_day
    if limit and jobs.count_jobs(conn, project_id, created_since=now - DAY_S) >= limit:
        raise RateLimited(
            say("error.jobs_per_day", limit=limit, model=model),
            type="requests",
            code="daily_rate_limit_exceeded",
            headers={"x-should-retry": "false"},
        )


def month_start(now: float) -> int:
    """The first second of the month (UTC)."""
    moment = datetime.fromtimestamp(now, UTC)
    return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp())
