"""A project's storage limit, held while bytes arrive and not only when they are there.

Who writes takes room for its bytes before it writes them, a step ahead, so that requests which run at the same time,
on any server, never pass the limit together. What a killed process had taken is free again after HELD_S.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

from sqlalchemy import Connection, Engine

from tunery.domain.clock import Clock
from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import random_text
from tunery.domain.limits import Limits
from tunery.metering.limits import project_limits
from tunery.settings import Settings
from tunery.store import storage as store
from tunery.store.blobs import Blobs
from tunery.store.database import read, write
from tunery.store.expiry import remove_expired
from tunery.texts import say

STEP_BYTES = 1024 * 1024
HELD_S = 600.0  # longer than any pause between two pieces of a request that goes on


def check_storage(
    conn: Connection, settings: Settings, project_id: str, num_bytes: int, *, now: float, param: str, own: str = ""
) -> None:
    """Raises InvalidRequest when what the project stores, what is arriving and these bytes are more than it may store.

    `own`: the id of the reservation that was made for these bytes.
    """
    limit = project_limits(conn, settings, project_id).max_storage_bytes
    if not limit:
        return
    stored = store.stored_bytes(conn, project_id).total
    arriving = store.reserved_bytes(conn, project_id, now=now, without=own)
    if stored + arriving + num_bytes > limit:
        raise InvalidRequest(
            say("error.bytes_do_not_fit", num_bytes=num_bytes, stored=stored, arriving=arriving, limit=limit),
            param=param,
            code="storage_limit_exceeded",
        )


def claim_storage(
    conn: Connection, settings: Settings, project_id: str, num_bytes: int, *, now: float, param: str, own: str = ""
) -> None:
    """`check_storage` for bytes that this transaction keeps: until it ends nobody else takes of what it has found."""
    store.lock_storage(conn, project_id)
    check_storage(conn, settings, project_id, num_bytes, now=now, param=param, own=own)


def check_not_full(conn: Connection, project_id: str, limits: Limits, *, now: float) -> None:
    """Raises InvalidRequest when there is no room at all. Of a job nobody knows yet how large its adapters will be:
    each that runs may go past the limit by those."""
    limit = limits.max_storage_bytes
    stored = store.stored_bytes(conn, project_id).total if limit else 0
    if limit and stored + store.reserved_bytes(conn, project_id, now=now) >= limit:
        raise InvalidRequest(say("error.storage_full", stored=stored, limit=limit), code="storage_limit_exceeded")


@dataclass
class Room:
    """Of one request, for what it writes. Use as a context, or `close` it: then nothing is held any more."""

    engine: Engine
    blobs: Blobs
    settings: Settings
    clock: Clock
    project_id: str
    param: str  # of the request, for the error
    most: int | None = None  # bytes the request can bring, where its Content-Length says so
    _id: str = field(default_factory=lambda: random_text(24))
    _taken: int = 0
    _reserved: float = 0
    _until: float = 0.0

    def __enter__(self) -> "Room":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if 0 < self._reserved < math.inf:
            with write(self.engine) as conn:
                self.give_back(conn)

    def give_back(self, conn: Connection) -> None:
        """In the transaction that keeps bytes for which it was taken."""
        store.give_back(conn, self._id)

    def let_in(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks, each when there is room for it. Raises InvalidRequest at the first that does not fit."""
        for chunk in chunks:
            self.take(len(chunk))
            yield chunk

    def take(self, num_bytes: int) -> None:
        self._taken += num_bytes
        is_held = self._reserved == math.inf or self.clock() < self._until - HELD_S / 2
        if self._taken <= self._reserved and is_held:
            return
        if not self._has_limit():
            self._reserved = math.inf
            return
        steps = math.ceil(self._taken / STEP_BYTES) * STEP_BYTES
        ahead = steps if self.most is None else min(steps, self.most)
        try:
            self._reserve(max(ahead, self._taken))
        except InvalidRequest:
            with ThreadPoolExecutor(max_workers=1) as cleaner:  # the blob store cannot in the thread it is writing in
                cleaner.submit(remove_expired, self.engine, self.blobs, self.clock()).result()
            self._reserve(self._taken)

    def settle(self, conn: Connection, num_bytes: int) -> None:
        """In the transaction that keeps the bytes, before their row: from now on the row counts. Raises
        InvalidRequest when they do not fit, which without a limit set meanwhile they do."""
        now, param = self.clock(), self.param
        claim_storage(conn, self.settings, self.project_id, num_bytes, now=now, param=param, own=self._id)
        self.give_back(conn)

    def _has_limit(self) -> bool:
        with read(self.engine) as conn:
            return bool(project_limits(conn, self.settings, self.project_id).max_storage_bytes)

    def _reserve(self, num_bytes: int) -> None:
        now = self.clock()
        with write(self.engine) as conn:
            param = self.param
            claim_storage(conn, self.settings, self.project_id, num_bytes, now=now, param=param, own=self._id)
            store.reserve(conn, self._id, self.project_id, num_bytes, until=now + HELD_S)
        self._reserved, self._until = num_bytes, now + HELD_S
