"""Requests and tokens a minute: who may pass now, and the x-ratelimit headers that tell how much is left."""

from dataclasses import dataclass

from sqlalchemy import Connection

from tunery.domain.errors import RateLimited
from tunery.domain.limits import Bucket, Limits
from tunery.store import limits as store
from tunery.store.limits import Unit
from tunery.texts import say

Subjects = dict[str, Limits]  # the project's limits and the key's, by id
SHORT = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}


@dataclass(frozen=True)
class RateLimit:
    """One bucket after a request took its part."""

    subject_id: str
    unit: Unit
    limit: int
    bucket: Bucket

    @property
    def headers(self) -> dict[str, str]:
        return {
            f"x-ratelimit-limit-{self.unit}": str(self.limit),
            f"x-ratelimit-remaining-{self.unit}": str(max(0, int(self.bucket.left))),
            f"x-ratelimit-reset-{self.unit}": duration(self.bucket.seconds_until(self.limit, self.limit)),
        }


def limit_of(limits: Limits, unit: Unit) -> int:
    return (limits.requests_per_minute if unit == "requests" else limits.tokens_per_minute) or 0


def has_rates(subjects: Subjects) -> bool:
    return any(each.requests_per_minute or each.tokens_per_minute for each in subjects.values())


def take(conn: Connection, subjects: Subjects, *, tokens: int, now: float, what: str) -> tuple[RateLimit, ...]:
    """Take one request and `tokens` from every limited bucket of every subject, or raise RateLimited.

    After the error the caller rolls back, so that a refused request takes nothing. `what` names the model and the
    organisation in the message.
    """
    rates = []
    for subject_id, limits in subjects.items():
        amounts: tuple[tuple[Unit, int], ...] = (("requests", 1), ("tokens", tokens))
        for unit, amount in amounts:
            limit = limit_of(limits, unit)
            if limit:
                rates.append(_take(conn, RateLimit(subject_id, unit, limit, Bucket(0, now)), amount, now, what))
    return tuple(rates)


def _take(conn: Connection, wanted: RateLimit, amount: int, now: float, what: str) -> RateLimit:
    subject_id, unit, limit = wanted.subject_id, wanted.unit, wanted.limit
    bucket = store.lock_bucket(conn, subject_id, unit, limit=limit, now=now).filled(limit, now)
    if bucket.left < amount:
        raise _refusal(RateLimit(subject_id, unit, limit, bucket), amount, what)
    left = bucket.without(amount)
    store.save_bucket(conn, subject_id, unit, left)
    return RateLimit(subject_id, unit, limit, left)


def give_back(conn: Connection, rates: tuple[RateLimit, ...], *, tokens: int, now: float) -> None:
    """Correct the token buckets by what was taken too much; below zero, by what was taken too little."""
    for rate in rates:
        if rate.unit == "tokens" and tokens:
            bucket = store.lock_bucket(conn, rate.subject_id, "tokens", limit=rate.limit, now=now)
            filled = bucket.filled(rate.limit, now).without(-tokens)
            store.save_bucket(conn, rate.subject_id, "tokens", filled.filled(rate.limit, now))


def headers_of(rates: tuple[RateLimit, ...]) -> dict[str, str]:
    """Of each unit, the bucket that is emptiest for its size: the one that will refuse first."""
    headers: dict[str, str] = {}
    for unit in ("tokens", "requests"):
        of_unit = [rate for rate in rates if rate.unit == unit]
        if of_unit:
            headers |= min(of_unit, key=lambda rate: rate.bucket.left / rate.limit).headers
    return headers


def _refusal(rate: RateLimit, amount: int, what: str) -> RateLimited:
    used = max(0, rate.limit - int(rate.bucket.left))
    where = say("error.rate_where", what=what, unit=SHORT[rate.unit], limit=rate.limit)
    if amount > rate.limit:
        message = say("error.request_over_rate", where=where, amount=amount)
        headers = {"x-should-retry": "false"}
    else:
        wait = rate.bucket.seconds_until(amount, rate.limit)
        again = duration(wait)
        message = say("error.rate_limited", where=where, used=used, amount=amount, again=again)
        headers = {"retry-after-ms": str(int(wait * 1000) + 1), "retry-after": str(int(wait) + 1)}
    return RateLimited(message, type=rate.unit, code="rate_limit_exceeded", headers=rate.headers | headers)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 250ms, 12s, 6m0s."""
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
