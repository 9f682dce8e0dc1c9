"""Stands around every completion: lets it in, counts it, and knows whether the answer went out.

The order of things makes the count exact when a process dies at any line:
1. `open_request` before the engine is asked: limits and budget. Writes nothing that costs.
2. `settle` when the usage is known and before the answer's last byte leaves, also for an answer that its client broke
   off. If the process dies before, the client has no whole answer and nothing is counted; if after, the answer is
   counted though it may not have arrived.
3. `delivered` after the last byte, or when the client went away before it. A record without this mark is that of a
   process that died: a retry with the same client id (Idempotency-Key or X-Client-Request-Id) that comes later takes
   its place, so that the client is charged for the one answer that it got. A record whose answer is still on its way,
   however slowly its client reads, is none.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from tunery.domain.clock import Clock, system_clock
from tunery.domain.limits import Limits
from tunery.domain.tenants import Caller
from tunery.domain.usage import TokenUsage, UsageRecord
from tunery.metering.budget import check_budget, warn_about_budget
from tunery.metering.ledger import RequestIds, find_lost, record_completion
from tunery.metering.limits import subject_limits
from tunery.metering.prices import PriceTable
from tunery.metering.rates import RateLimit, Subjects, give_back, has_rates, headers_of, take
from tunery.settings import Settings
from tunery.store import usage as usage_store
from tunery.store.database import read, write
from tunery.texts import say


@dataclass(frozen=True)
class Admission:
    """One request that was let in."""

    caller: Caller
    ids: RequestIds
    limits: Limits  # the project's
    estimated_tokens: int
    rates: tuple[RateLimit, ...] = ()
    is_batch: bool = False  # answered when there is time, at the price of batches

    @property
    def headers(self) -> dict[str, str]:
        """x-ratelimit-…, where there are limits."""
        return headers_of(self.rates)


class Meter:
    def __init__(self, engine: Engine, prices: PriceTable, settings: Settings, clock: Clock = system_clock) -> None:
        self._engine, self._prices, self._settings, self._clock = engine, prices, settings, clock
        self._delivered: list[str] = []  # ids whose mark is not in the database yet
        self._leaving: set[str] = set()  # ids of counted answers that have no mark there, since they are on their way
        self._lock = threading.Lock()

    def open_request(
        self,
        caller: Caller,
        ids: RequestIds,
        *,
        model: str,
        estimated_tokens: int = 0,
    ) -> Admission:
        """Raises RateLimited. `estimated_tokens`: the prompt and the longest answer asked for; corrected at the end."""
        with read(self._engine) as conn:
            subjects = self.look(conn, caller)
            ids = self.find_lost(conn, caller, ids)
        return self.let_in(caller, ids, subjects, model=model, estimated_tokens=estimated_tokens)

    def look(self, conn: Connection, caller: Caller) -> Subjects:
        """The first half of `open_request`, which only reads: for `let_in`. Raises RateLimited for a spent budget."""
        subjects = subject_limits(conn, self._settings, caller.project_id, caller.key_id)
        check_budget(conn, caller.project_id, subjects[caller.project_id], now=self._clock())
        return subjects

    def find_lost(self, conn: Connection, caller: Caller, ids: RequestIds) -> RequestIds:
        """With the answer that a process which died has left under the client's id; none that this one still sends."""
        found = find_lost(conn, caller, ids)
        with self._lock:
            return ids if found.lost in self._leaving else found

    def let_in(
        self,
        caller: Caller,
        ids: RequestIds,
        subjects: Subjects,
        *,
        model: str,
        estimated_tokens: int,
        is_batch: bool = False,
    ) -> Admission:
        """The second half. It writes, and so may wait for the database, where `has_rates(subjects)`. Requests of a
        batch, which wait as long as it takes, have no rate."""
        limits = subjects[caller.project_id]
        if is_batch or not has_rates(subjects):
            return Admission(caller, ids, limits, estimated_tokens, is_batch=is_batch)
        with write(self._engine) as conn:
            what = say("error.rate_of", model=model, organization=caller.organization_id)
            rates = take(conn, subjects, tokens=estimated_tokens, now=self._clock(), what=what)
        return Admission(caller, ids, limits, estimated_tokens, rates)

    def settle(
        self,
        admission: Admission,
        *,
        model: str,
        usage: TokenUsage,
        keep: Callable[[Connection], None] | None = None,
    ) -> UsageRecord:
        """Count the answer. Call it before the last byte goes out, also for an answer that the client broke off.

        `keep` writes what else is to be there then: what is counted is kept, and the other way about."""
        now = self._clock()
        marks = self._take_marks()
        if admission.ids.client is not None:
            with self._lock:
                self._leaving.add(admission.ids.server)
        try:
            with write(self._engine) as conn:
                if marks:
                    usage_store.mark_delivered(conn, marks)
                unused = admission.estimated_tokens - usage.input_tokens - usage.output_tokens
                give_back(conn, admission.rates, tokens=unused, now=now)
                record = record_completion(
                    conn,
                    admission.caller,
                    admission.ids,
                    prices=self._prices,
                    model=model,
                    usage=usage,
                    now=now,
                    is_batch=admission.is_batch,
                )
                project_id, currency = admission.caller.project_id, self._prices.currency
                warn_about_budget(conn, project_id, admission.limits, currency=currency, now=now)
                if keep is not None:
                    keep(conn)
        except BaseException:
            self._give_marks_back(marks)
            raise
        self._forget(marks)
        return record

    def abandon(self, admission: Admission) -> None:
        """The engine gave no answer: nothing is charged, and the tokens taken ahead go back."""
        if any(rate.unit == "tokens" for rate in admission.rates):
            with write(self._engine) as conn:
                give_back(conn, admission.rates, tokens=admission.estimated_tokens, now=self._clock())

    def delivered(self, admission: Admission) -> None:
        """The answer went out, or its client did not wait for it. Written with the next settle, or by flush; only
        answers that may be asked for again need it."""
        if admission.ids.client is not None:
            with self._lock:
                self._delivered.append(admission.ids.server)

    def not_sent(self, admission: Admission) -> None:
        """The answer never left, and whoever asked asks again under the same client id: what was counted for this one
        is replaced."""
        self._forget([admission.ids.server])

    def flush(self) -> None:
        """Write what `delivered` has noted: at shutdown, and now and then."""
        marks = self._take_marks()
        if not marks:
            return
        try:
            with write(self._engine) as conn:
                usage_store.mark_delivered(conn, marks)
        except BaseException:
            self._give_marks_back(marks)
            raise
        self._forget(marks)

    def _take_marks(self) -> list[str]:
        with self._lock:
            marks, self._delivered = self._delivered, []
        return marks

    def _give_marks_back(self, marks: list[str]) -> None:
        with self._lock:
            self._delivered += marks

    def _forget(self, written: list[str]) -> None:
        """Their marks are in the database."""
        with self._lock:
            self._leaving.difference_update(written)
