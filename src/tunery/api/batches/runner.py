"""Answers the requests of batches, in the worker: by the very functions that answer live ones.

A batch belongs to the worker that holds its lease. What came of a request is written as soon as it is there, together
with the batch's counts; what was under way when a worker died is asked again by the next one, and what the ledger had
counted for it is replaced (`metering.meter`), so that each line of the output was counted once.
"""

import asyncio
import logging
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf
from typing import Any

import orjson
from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tunery.api import inference
from tunery.api.access import check_still
from tunery.api.batches.lines import ENDPOINTS, KINDS, RESPONSES, Input, Place, examine, problem
from tunery.api.context import Context
from tunery.api.errors import unexpected
from tunery.api.responses import service
from tunery.domain.batches import Batch, BatchResult, BatchStatus
from tunery.domain.errors import NotFound, RateLimited, TuneryError, Unavailable
from tunery.domain.files import File, FilePurpose, blob_path
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller, Role, Scope
from tunery.engines.pool import resolve
from tunery.jobs.identity import WorkerIdentity, is_dead_here
from tunery.metering.ledger import RequestIds
from tunery.metering.meter import Admission
from tunery.notify.announce import announce
from tunery.store import batches, files, tenants
from tunery.store.database import read, write
from tunery.texts import Reference, reference, say
from tunery.wire.validation import from_problems

log = logging.getLogger(__name__)

Json = dict[str, Any]

POLL_S = 0.5
BEAT_S = 1.0
RETRY_S = 2.0  # while the engine, or the database, is away
MAX_FAULTS = 3  # of the engine at one request: then it is answered with the error
FINISH_S = 600.0  # for the requests that are under way when a batch is to end
HELD_AT_ONCE = 32  # batches


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


class BatchRunner:
    def __init__(self, context: Context, identity: WorkerIdentity) -> None:
        self._context, self._identity, self._id = context, identity, str(identity)
        self._works: dict[str, asyncio.Task[None]] = {}  # of each batch
        self._slots = Slots(context.settings.batch_concurrency)

    def run(self, stop: threading.Event) -> None:
        """Until stop is set: then batches are left as they are, for the next worker."""
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                has_work = len(self._works) < HELD_AT_ONCE and await self._begin()
            except Exception:
                log.exception("the worker could not look for batches")
                has_work = False
            if not has_work:
                await asyncio.to_thread(stop.wait, POLL_S)
        for work in self._works.values():
            work.cancel()
        await asyncio.gather(*self._works.values(), return_exceptions=True)
        self._context.meter.flush()
        for client in (self._context.engines, self._context.upstream, self._context.judges):
            await client.close()

    async def _begin(self) -> bool:
        batch = await asyncio.to_thread(self._claim, tuple(self._works))
        if batch is None:
            return False
        log.info("%s begins", batch.id)
        work = asyncio.create_task(_Work(self._context, self._id, batch, self._slots).run())
        self._works[batch.id] = work
        work.add_done_callback(lambda _: self._works.pop(batch.id))
        return True

    def _claim(self, held: tuple[str, ...]) -> Batch | None:
        context = self._context
        with write(context.database) as conn:
            dead = [holder for holder in batches.list_holders(conn) if is_dead_here(holder, self._identity)]
            batches.free_batches(conn, *dead)
            now, lease_s = context.clock(), context.settings.lease_s
            return batches.claim_batch(conn, self._id, now=now, lease_s=lease_s, held=held)


class _Work:
    """On one batch, until it has ended or another worker has it."""

    def __init__(self, context: Context, worker_id: str, batch: Batch, slots: Slots) -> None:
        self._context, self._worker_id, self._batch, self._slots = context, worker_id, batch, slots
        self._folder = context.settings.home / "work" / batch.id
        self._end: tuple[BatchStatus, list[Json]] | None = None  # how it ends, unless it is completed
        self._ended_at = inf
        self._lease = threading.Lock()  # a look may still be on its way, in its thread, when the batch is let go
        self._is_let_go = False

    async def run(self) -> None:
        working = asyncio.create_task(self._carry_out())
        beating = asyncio.create_task(self._beat())
        try:
            await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and working.exception() is not None:
                log.error("%s could not be worked on; it is tried again", self._batch.id, exc_info=working.exception())
                await asyncio.sleep(RETRY_S)
        finally:
            working.cancel()
            beating.cancel()
            await asyncio.wait({working, beating})
            await asyncio.shield(asyncio.to_thread(self._let_go))

    def _let_go(self) -> None:
        """A batch that has ended has no lease, and one that has not may be taken at once."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with self._lease, write(self._context.database) as conn:
            self._is_let_go = True
            batches.renew(conn, self._batch.id, self._worker_id, until=0)

    async def _carry_out(self) -> None:
        if not await asyncio.to_thread(self._look):
            return
        given = await asyncio.to_thread(self._read_input)
        if given.problems:
            self._stop(BatchStatus.FAILED, given.problems)
        if self._end is None and self._batch.in_progress_at is None:
            await asyncio.to_thread(self._start, given)
        if self._end is None:
            await self._answer_all(given)
        await asyncio.to_thread(self._conclude, given)

    # ---- what may end it

    async def _beat(self) -> None:
        """Until the batch is no longer this worker's."""
        lease_s, heard_at = self._context.settings.lease_s, self._context.clock()
        is_mine = True
        while is_mine:
            await asyncio.sleep(min(BEAT_S, lease_s / 3))
            try:
                is_mine = await asyncio.to_thread(self._look)
                heard_at = self._context.clock()
            except SQLAlchemyError:
                log.exception("the lease of %s could not be renewed", self._batch.id)
                is_mine = self._context.clock() - heard_at < lease_s

    def _look(self) -> bool:
        """Renews the lease; False when it is lost. Notices a cancel, the end of the window, and that of the right."""
        context, now = self._context, self._context.clock()
        with self._lease, write(context.database) as conn:
            until = now + context.settings.lease_s
            found = None if self._is_let_go else batches.renew(conn, self._batch.id, self._worker_id, until=until)
            if found is None:
                return False
            self._batch = found
            if found.status is BatchStatus.CANCELLING:
                self._stop(BatchStatus.CANCELLED)
            elif now >= found.expires_at:
                self._stop(BatchStatus.EXPIRED)
            try:
                self._caller = self._caller_now(conn)  # it may use what it could use, until it may not
            except TuneryError as error:
                self._stop(BatchStatus.FAILED, [problem(error.code or "invalid_api_key", error.message)])
        return True

    def _caller_now(self, conn: Connection) -> Caller:
        batch, project = self._batch, tenants.get_project(conn, self._batch.project_id)
        caller = Caller(batch.api_key_id, project.organization_id, project.id, batch.created_by, Role.READER)
        check_still(conn, caller, Scope.MODELS_REQUEST, self._context.clock())
        return caller

    def _stop(self, status: BatchStatus, errors: list[Json] | None = None) -> None:
        if self._end is None:
            self._end, self._ended_at = (status, errors or []), self._context.clock()

    # ---- its requests

    def _read_input(self) -> Input:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "input.jsonl"
        try:
            with read(self._context.database) as conn:
                file = files.get_file(conn, self._batch.input_file_id, self._batch.project_id)
            self._context.blobs.fetch(file.blob, path)
        except NotFound:
            message = say("error.batch_file_gone", file_id=self._batch.input_file_id)
            return Input(path, self._batch.endpoint, problems=[problem("input_file_not_found", message)])
        return examine(path, self._batch.endpoint)

    def _start(self, given: Input) -> None:
        context, batch = self._context, self._batch
        try:
            with write(context.database) as conn:
                target = resolve(conn, context.catalog, given.model, batch.project_id)
                total = len(given.places)
                status, now = BatchStatus.IN_PROGRESS, context.clock()
                values = {"model": target.weights_name, "num_requests": total}
                batches.advance(conn, batch.id, self._worker_id, status, now, **values)
        except TuneryError as error:
            line = min(place.line for place in given.places)
            self._stop(BatchStatus.FAILED, [problem(error.code or "", error.message, line=line, param="body.model")])
        self._look()

    async def _answer_all(self, given: Input) -> None:
        """Those without a result, in the order in which equal beginnings stand together."""
        done = await asyncio.to_thread(self._answered)
        under_way: set[asyncio.Task[None]] = set()
        faults: list[BaseException] = []

        def finished(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            self._slots.give_back()
            if not task.cancelled() and (fault := task.exception()) is not None:
                faults.append(fault)

        try:
            for place in given.places:
                if place.line in done:
                    continue
                await self._slots.take(self._batch.project_id)
                if self._end is not None or faults:
                    self._slots.give_back()
                    break
                task = asyncio.create_task(self._answer(given, place))
                under_way.add(task)
                task.add_done_callback(finished)
            while under_way and not faults and self._context.clock() < self._ended_at + FINISH_S:
                await asyncio.wait(under_way, timeout=BEAT_S)
            for fault in faults:  # of this machine, such as its disk: what has no result is asked again
                raise fault
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _answered(self) -> set[int]:
        with read(self._context.database) as conn:
            return batches.answered_lines(conn, self._batch.id)

    async def _answer(self, given: Input, place: Place) -> None:
        """Until it has a result, or the batch ends without one."""
        request = await asyncio.to_thread(given.request, place)
        num_faults = 0
        while True:
            ids, admission = RequestIds(new_id("request"), f"{self._batch.id} {place.line}"), None
            text: Reference | None = None
            try:
                status = 200
                admission, body = await answer(self._context, self._caller, ids, self._batch.endpoint, request["body"])
            except Exception as exc:
                num_faults += not _is_away(exc)
                error = exc if isinstance(exc, TuneryError) else unexpected(ids.server)
                status, body, text = error.status, error.body(), error.text
                if _is_away(exc) or (status >= 500 and num_faults < MAX_FAULTS):
                    log.warning("line %d of %s is asked again: %r", place.line, self._batch.id, exc)
                    await asyncio.sleep(RETRY_S)
                    if self._end is not None:
                        return
                    continue
            result = _result(place, request["custom_id"], ids, status, body, text)
            return await self._keep(result, admission)

    async def _keep(self, result: BatchResult, admission: Admission | None) -> None:
        meter, is_kept = self._context.meter, False
        try:
            while not is_kept:
                try:
                    await asyncio.to_thread(self._write, result)
                    is_kept = True
                except SQLAlchemyError:
                    log.exception("line %d of %s could not be written", result.line, self._batch.id)
                    await asyncio.sleep(RETRY_S)
        finally:
            if admission is not None:
                (meter.delivered if is_kept else meter.not_sent)(admission)

    def _write(self, result: BatchResult) -> None:
        with write(self._context.database) as conn:
            batches.add_result(conn, self._batch.id, self._worker_id, result)

    # ---- its end

    def _conclude(self, given: Input) -> None:
        context, batch = self._context, self._batch
        status, errors = self._end or (BatchStatus.COMPLETED, [])
        made: dict[str, File | None] = {}
        if batch.in_progress_at is not None:
            ids = self._begin_files(status)
            if ids is None:
                return
            with read(context.database) as conn:
                answered = batches.answered_lines(conn, batch.id)
                left = [place for place in given.places if place.line not in answered]
                failed = chain(batches.results(conn, batch.id, is_failed=True), _not_asked(given, left, status))
                made["output"] = self._file("output", ids[0], batches.results(conn, batch.id, is_failed=False))
                made["error"] = self._file("error", ids[1], failed)
        now = context.clock()
        with write(context.database) as conn:
            ended = batches.end_batch(conn, batch.id, self._worker_id, status, now, errors=errors, **made)
            if ended is not None:
                announce(conn, batch.project_id, f"batch.{ended.status}", batch.id, now=now)
        if ended is None:  # another worker ends it
            for file in filter(None, made.values()):
                context.blobs.delete(file.blob)

    def _begin_files(self, status: BatchStatus) -> tuple[str, str] | None:
        """The ids of output and error file, which the batch notes before they have bytes: whoever comes after a worker
        that died on the way to the end removes what that had written. None: another worker ends it."""
        context, batch, ids = self._context, self._batch, (new_id("file"), new_id("file"))
        now = context.clock()
        with write(context.database) as conn:
            if status is BatchStatus.COMPLETED:
                batches.advance(conn, batch.id, self._worker_id, BatchStatus.FINALIZING, now)
            before = batches.get_batch(conn, batch.id, batch.project_id)
            until = now + context.settings.lease_s
            values = {"output_file_id": ids[0], "error_file_id": ids[1]}
            if batches.renew(conn, batch.id, self._worker_id, until=until, **values) is None:
                return None
        for left in filter(None, (before.output_file_id, before.error_file_id)):
            context.blobs.delete(blob_path(left))
        return ids

    def _file(self, kind: str, file_id: str, found: Iterable[BatchResult]) -> File | None:
        """Its bytes are in the blobs, not yet its row. None: nothing would be in it."""
        first = next(rows := iter(found), None)
        if first is None:
            return None
        batch, now = self._batch, self._context.now()
        counted = _Counted(chain([first], rows))
        info = self._context.blobs.put(blob_path(file_id), counted)
        return File(
            id=file_id,
            project_id=batch.project_id,
            created_at=now,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose=FilePurpose.BATCH_OUTPUT,
            bytes=info.bytes,
            sha256=info.sha256,
            blob=info.path,
            expires_at=now + batch.output_lifetime_s,
            num_rows=counted.num_rows,
        )


class _Counted:
    """The lines of a file on their way into it."""

    def __init__(self, found: Iterable[BatchResult]) -> None:
        self._found, self.num_rows = found, 0

    def __iter__(self) -> Iterator[bytes]:
        for result in self._found:
            self.num_rows += 1
            yield result.content.encode() + b"\n"


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


def _result(
    place: Place, custom_id: str, ids: RequestIds, status: int, body: Json, text: Reference | None
) -> BatchResult:
    response = {"status_code": status, "request_id": ids.server, "body": body}
    content = _line(custom_id, response, None, text)
    return BatchResult(place.line, content, is_failed=status != 200, **_tokens(body.get("usage") or {}))


def _line(custom_id: str, response: Json | None, error: Json | None, text: Reference | None) -> str:
    """`text`: key and values of the error's message, which a live answer has in a header."""
    line = {"id": new_id("batch_request"), "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(line | ({"text": text} if text else {})).decode()


def _tokens(usage: Json) -> dict[str, int]:
    """Of chats and completions, or of responses."""
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens", usage.get("input_tokens")) or 0,
        "cached_tokens": details.get("cached_tokens") or 0,
        "output_tokens": usage.get("completion_tokens", usage.get("output_tokens")) or 0,
    }


def _not_asked(given: Input, left: list[Place], status: BatchStatus) -> Iterator[BatchResult]:
    """Of requests that a batch ended without."""
    for place in sorted(left, key=lambda place: place.line):
        custom_id = given.request(place)["custom_id"]
        message = say(f"error.batch_ended.{status}")
        error = {"code": f"batch_{status}", "message": message}
        yield BatchResult(place.line, _line(custom_id, None, error, reference(message)), is_failed=True)
