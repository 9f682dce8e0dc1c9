"""Writes what was used into the ledger, at the price of the day."""

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from tunery.domain.jobs import FineTuningJob
from tunery.domain.tenants import Caller
from tunery.domain.usage import Price, TokenUsage, UsageRecord
from tunery.metering.prices import PriceTable
from tunery.store import usage as store


@dataclass(frozen=True)
class RequestIds:
    """The server's own id, never the same twice; and the client's, the same in every retry of one request."""

    server: str
    client: str | None = None
    lost: str | None = None  # the server's id of an answer under the client's that never arrived: this one replaces it


def find_lost(conn: Connection, caller: Caller, ids: RequestIds) -> RequestIds:
    """With the answer that was counted under the client's id before and never left its server, which has died.

    Looked for when a request comes: of requests that run at the same time none is the retry of another.
    """
    if ids.client is None:
        return ids
    return replace(ids, lost=store.find_undelivered(conn, caller.project_id, ids.client))


def record_completion(
    conn: Connection,
    caller: Caller,
    ids: RequestIds,
    *,
    prices: PriceTable,
    model: str,
    usage: TokenUsage,
    now: float,
    is_batch: bool = False,
) -> UsageRecord:
    """Count one answer, however often this is called for it. `model`: a snapshot or `ft:` name, never an alias."""
    record = UsageRecord(
        request_id=ids.server,
        client_request_id=ids.client,
        kind="completion",
        project_id=caller.project_id,
        user_id=caller.user_id or "",
        api_key_id=caller.key_id,
        model=model,
        created_at=int(now),
        usage=usage,
        cost=prices.price_of(model, now, is_batch=is_batch).cost(usage),
        currency=prices.currency,
        is_batch=is_batch,
    )
    store.record_usage(conn, record, replaces=ids.lost)
    return record


def record_training(
    conn: Connection, job: FineTuningJob, *, prices: PriceTable, trained_tokens: int, now: float
) -> UsageRecord:
    """Count a job that succeeded, in the transaction that says so. The job's id makes it count once."""
    usage = TokenUsage(trained_tokens=trained_tokens)
    record = UsageRecord(
        **_of_job(job, prices, now),
        request_id=job.id,
        kind="training",
        usage=usage,
        cost=Price(training=prices.training_price(job.base_model, now)).cost(usage),
    )
    store.record_usage(conn, record)
    return record


def record_samples(
    conn: Connection, job: FineTuningJob, *, step: int, usage: TokenUsage, prices: PriceTable, now: float
) -> None:
    """Count what a checkpoint answered to the job's sample prompts, once, as a tuned model's answers are."""
    record = UsageRecord(
        **_of_job(job, prices, now),
        request_id=f"{job.id}-samples-{step}",
        kind="completion",
        usage=usage,
        cost=prices.tuned_price(job.base_model, now).cost(usage),
    )
    store.record_usage(conn, record)


def _of_job(job: FineTuningJob, prices: PriceTable, now: float) -> dict[str, Any]:
    """No key asked for it: it is its creator's."""
    return {
        "project_id": job.project_id,
        "user_id": job.created_by or "",
        "api_key_id": "",
        "model": job.base_model,
        "created_at": int(now),
        "currency": prices.currency,
    }
