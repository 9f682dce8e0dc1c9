"""What a worker answers request by request: batches, and runs of evals. By the very functions that answer live ones.

Each belongs to the worker that holds its lease. What came of a request is written as soon as it is there; what was
under way when a worker died is asked again by the next one, and what the ledger had counted for it is replaced
(`metering.meter`), so that each answer was counted once.
"""

import asyncio
import logging
import shutil
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tunery.api import inference
from tunery.api.access import check_still
from tunery.api.chat.routes import ChatRequest, CompletionRequest
from tunery.api.context import Context
from tunery.api.embeddings import EmbeddingRequest
from tunery.api.errors import unexpected
from tunery.api.graders.similarity import Comparers
from tunery.api.inference import PATHS, Kind
from tunery.api.responses import service
from tunery.api.responses.schemas import ResponseRequest
from tunery.domain.errors import RateLimited, TuneryError, Unavailable
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller, Role, Scope
from tunery.jobs.identity import WorkerIdentity, is_dead_here
from tunery.metering.ledger import RequestIds
from tunery.metering.meter import Admission
from tunery.sandbox.pool import Sandbox
from tunery.store import tenants
from tunery.store.database import write
from tunery.store.leases import Leases
from tunery.wire.validation import from_problems

log = logging.getLogger(__name__)

Json = dict[str, Any]

POLL_S = 0.5
BEAT_S = 1.0
RETRY_S = 2.0  # while the engine, or the database, is away
MAX_FAULTS = 3  # of the engine at one request: then it is answered with the error
FINISH_S = 600.0  # for the requests that are under way when their batch is to end
HELD_AT_ONCE = 32  # batches, and as many runs

RESPONSES = "/v1/responses"
KINDS: dict[str, Kind] = {path: kind for kind, path in PATHS.items()}  # of those that one request asks the engine for


class Request(Protocol):
    """The live route's own model of a body."""

    def sent(self) -> Json: ...


ENDPOINTS: dict[str, Callable[[Json], Request]] = {
    PATHS["chat"]: ChatRequest.model_validate,
    PATHS["completion"]: CompletionRequest.model_validate,
    PATHS["embedding"]: EmbeddingRequest.model_validate,
    RESPONSES: ResponseRequest.model_validate,
}


class Owned(Protocol):
    """What batches and runs have in common."""

    @property
    def id(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def api_key_id(self) -> str: ...
    @property
    def created_by(self) -> str | None: ...


Task = TypeVar("Task", bound=Owned)
Thing = TypeVar("Thing")
Answer = TypeVar("Answer")


class Slots:
    """In each a request is answered. Projects that wait for one get it in turns, whatever they have to ask."""

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # of each project

    async def take(self, project_id: str) -> None:
        async with self._turns[project_id]:
            await self._free.acquire()

    def give_back(self) -> None:
        self._free.release()


class LeasedRunner:
    """Of all kinds that it is given, in one event loop and with one set of slots."""

    def __init__(self, context: Context, identity: WorkerIdentity, kinds: "Sequence[type[LeasedWork[Any]]]") -> None:
        self._context, self._identity, self._id, self._kinds = context, identity, str(identity), kinds
        self._works: dict[str, asyncio.Task[None]] = {}  # of each batch and run
        self._held = {kind: set[str]() for kind in kinds}
        self._slots = Slots(context.settings.batch_concurrency)

    def run(self, stop: threading.Event) -> None:
        """Until stop is set: then all is left as it is, for the next worker."""
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            has_work = False
            for kind in self._kinds:
                try:
                    has_work |= len(self._held[kind]) < HELD_AT_ONCE and await self._begin(kind)
                except Exception:
                    log.exception("the worker could not look for work")
            if not has_work:
                await asyncio.to_thread(stop.wait, POLL_S)
        await asyncio.sleep(0)  # what was claimed just now begins, or it could not let go of its lease
        for work in self._works.values():
            work.cancel()
        await asyncio.gather(*self._works.values(), return_exceptions=True)
        self._context.meter.flush()
        for client in (self._context.engines, self._context.upstream, self._context.judges):
            await client.close()
        self._context.shared(Comparers).close()
        await self._context.shared(Sandbox).close()

    async def _begin(self, kind: "type[LeasedWork[Any]]") -> bool:
        found = await asyncio.to_thread(self._claim, kind)
        if found is None:
            return False
        log.info("%s begins", found.id)
        work = asyncio.create_task(kind(self._context, self._id, found, self._slots).run())
        self._works[found.id] = work
        self._held[kind].add(found.id)
        work.add_done_callback(lambda _: self._forget(kind, found.id))
        return True

    def _forget(self, kind: "type[LeasedWork[Any]]", task_id: str) -> None:
        self._works.pop(task_id)
        self._held[kind].remove(task_id)

    def _claim(self, kind: "type[LeasedWork[Any]]") -> Any:
        context, leases = self._context, kind.leases
        with write(context.database) as conn:
            dead = [holder for holder in leases.list_holders(conn) if is_dead_here(holder, self._identity)]
            leases.free(conn, *dead)
            now, lease_s = context.clock(), context.settings.lease_s
            return leases.claim(conn, self._id, now=now, lease_s=lease_s, held=tuple(self._held[kind]))


class LeasedWork(ABC, Generic[Task]):
    """On one batch or run, until it has ended or another worker has it."""

    leases: ClassVar[Leases[Any]]

    def __init__(self, context: Context, worker_id: str, task: Task, slots: Slots) -> None:
        self.context, self.worker_id, self.task, self._slots = context, worker_id, task, slots
        self.folder = context.settings.home / "work" / task.id
        self.end: tuple[str, list[Json]] | None = None  # how it ends and for what errors, unless it is completed
        self._ended_at = inf
        self._lease = threading.Lock()  # a look may still be on its way, in its thread, when the task is let go
        self._is_let_go = False

    @abstractmethod
    async def carry_out(self) -> None:
        """To its end."""

    @abstractmethod
    def notice(self, now: float) -> None:
        """`stop` for what the task's row says now."""

    @abstractmethod
    def refuse(self, error: TuneryError) -> None:
        """`stop`, since who asked may no longer ask."""

    async def run(self) -> None:
        working = asyncio.create_task(self._work())
        beating = asyncio.create_task(self._beat())
        try:
            await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and working.exception() is not None:
                log.error("%s could not be worked on; it is tried again", self.task.id, exc_info=working.exception())
                await asyncio.sleep(RETRY_S)
        finally:
            working.cancel()
            beating.cancel()
            await asyncio.wait({working, beating})
            await asyncio.shield(asyncio.to_thread(self._let_go))

    async def _work(self) -> None:
        if await asyncio.to_thread(self.look):
            await self.carry_out()

    def _let_go(self) -> None:
        """What has ended has no lease, and what has not may be taken at once."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with self._lease, write(self.context.database) as conn:
            self._is_let_go = True
            self.leases.renew(conn, self.task.id, self.worker_id, until=0)

    async def _beat(self) -> None:
        """Until the task is no longer this worker's."""
        lease_s, heard_at = self.context.settings.lease_s, self.context.clock()
        is_mine = True
        while is_mine:
            await asyncio.sleep(min(BEAT_S, lease_s / 3))
            try:
                is_mine = await asyncio.to_thread(self.look)
                heard_at = self.context.clock()
            except SQLAlchemyError:
                log.exception("the lease of %s could not be renewed", self.task.id)
                is_mine = self.context.clock() - heard_at < lease_s

    def look(self) -> bool:
        """Renews the lease; False when it is lost. Notices what has become of the task, and the end of the right."""
        context, now = self.context, self.context.clock()
        with self._lease, write(context.database) as conn:
            until = now + context.settings.lease_s
            found = None if self._is_let_go else self.leases.renew(conn, self.task.id, self.worker_id, until=until)
            if found is None:
                return False
            self.task = found
            self.notice(now)
            try:
                self.caller = self._caller_now(conn)  # it may use what it could use, until it may not
            except TuneryError as error:
                self.refuse(error)
        return True

    def _caller_now(self, conn: Connection) -> Caller:
        task, project = self.task, tenants.get_project(conn, self.task.project_id)
        caller = Caller(task.api_key_id, project.organization_id, project.id, task.created_by, Role.READER)
        for scope in self.scopes(conn):
            check_still(conn, caller, scope, self.context.clock())
        return caller

    def scopes(self, conn: Connection) -> tuple[Scope, ...]:
        """What who asked must have the right to, until the end."""
        return (Scope.MODELS_REQUEST,)

    def stop(self, status: str, errors: list[Json] | None = None) -> None:
        if self.end is None:
            self.end, self._ended_at = (status, errors or []), self.context.clock()

    # ---- its requests

    async def each(self, things: Iterable[Thing], do: Callable[[Thing], Awaitable[None]]) -> None:
        """`do` for each, as many at once as there are slots, until the task is to end. What is under way then has its
        time to finish; a fault of this machine, such as its disk, is raised."""
        under_way: set[asyncio.Task[None]] = set()
        faults: list[BaseException] = []

        def finished(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            self._slots.give_back()
            if not task.cancelled() and (fault := task.exception()) is not None:
                faults.append(fault)

        try:
            for thing in things:
                await self._slots.take(self.task.project_id)
                if self.end is not None or faults:
                    self._slots.give_back()
                    break
                task = asyncio.ensure_future(do(thing))
                under_way.add(task)
                task.add_done_callback(finished)
            while under_way and not faults and self.context.clock() < self._ended_at + FINISH_S:
                await asyncio.wait(under_way, timeout=BEAT_S)
            for fault in faults:  # what has no result is asked again
                raise fault
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def ask(
        self, name: str, call: Callable[[RequestIds], Awaitable[Answer]]
    ) -> tuple[RequestIds, Answer | TuneryError] | None:
        """What `call` comes to, or the error that it stays with. Asks again while what answers is away. None: the task
        ends without it. `name`: of the request within the task, by which an answer that was lost is known again."""
        num_faults = 0
        while True:
            ids = RequestIds(new_id("request"), f"{self.task.id} {name}")
            try:
                return ids, await call(ids)
            except Exception as exc:
                num_faults += not _is_away(exc)
                error = exc if isinstance(exc, TuneryError) else unexpected(ids.server)
                if not _is_away(exc) and (error.status < 500 or num_faults >= MAX_FAULTS):
                    return ids, error
                log.warning("%s of %s is asked again: %r", name, self.task.id, exc)
                await asyncio.sleep(RETRY_S)
                if self.end is not None:
                    return None

    async def keep(self, what: str, admissions: Sequence[Admission], store: Callable[[], None]) -> None:
        """`store`, as often as it takes, in a thread; then the answers have arrived where they are kept."""
        meter, is_kept = self.context.meter, False
        try:
            while not is_kept:
                try:
                    await asyncio.to_thread(store)
                    is_kept = True
                except SQLAlchemyError:
                    log.exception("%s of %s could not be written", what, self.task.id)
                    await asyncio.sleep(RETRY_S)
        finally:
            for admission in admissions:
                (meter.delivered if is_kept else meter.not_sent)(admission)


async def answer(
    context: Context, caller: Caller, ids: RequestIds, endpoint: str, body: Json
) -> tuple[Admission, Json]:
    """As the live route answers it, at the price of batches. Raises what that would."""
    try:
        sent = ENDPOINTS[endpoint](body).sent()
    except ValidationError as exc:
        raise from_problems(exc.errors()) from exc
    if endpoint == RESPONSES:
        pending = await service.admit(context, caller, ids, sent, is_batch=True)
        admitted, work = pending.admitted, service.complete(context, pending)
    else:
        admitted = await inference.admit(context, caller, ids, KINDS[endpoint], sent, is_batch=True)
        work = inference.complete(context, admitted)
    try:
        return admitted.admission, await work
    except BaseException:
        context.meter.not_sent(admitted.admission)
        raise


def _is_away(exc: Exception) -> bool:
    """What answers, or keeps books, is not there now: it helps to ask again, as often as it takes."""
    if isinstance(exc, RateLimited):  # of a model that is passed on; a spent budget stays spent
        return exc.code != "insufficient_quota"
    return isinstance(exc, Unavailable | SQLAlchemyError)
