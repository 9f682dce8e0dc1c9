"""Answers the requests of batches, in the worker (`api.leased`). Each result is written together with the batch's
counts."""

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import orjson

from tunery.api.batches.lines import Input, Place, examine, problem
from tunery.api.leased import LeasedWork, answer
from tunery.domain.batches import Batch, BatchResult, BatchStatus
from tunery.domain.errors import NotFound, TuneryError
from tunery.domain.files import File, FilePurpose, blob_path
from tunery.domain.ids import new_id
from tunery.engines.pool import resolve
from tunery.metering.ledger import RequestIds
from tunery.metering.meter import Admission
from tunery.notify.announce import announce
from tunery.store import batches, files
from tunery.store.database import read, write
from tunery.texts import Reference, reference, say

Json = dict[str, Any]


class BatchWork(LeasedWork[Batch]):
    """On one batch."""

    leases = batches.LEASES

    async def carry_out(self) -> None:
        given = await asyncio.to_thread(self._read_input)
        if given.problems:
            self.stop(BatchStatus.FAILED, given.problems)
        if self.end is None and self.task.in_progress_at is None:
            await asyncio.to_thread(self._start, given)
        if self.end is None:
            done = await asyncio.to_thread(self._answered)
            left = (place for place in given.places if place.line not in done)  # equal beginnings stand together
            await self.each(left, lambda place: self._answer(given, place))
        await asyncio.to_thread(self._conclude, given)

    def notice(self, now: float) -> None:
        """A cancel, and the end of the window."""
        if self.task.status is BatchStatus.CANCELLING:
            self.stop(BatchStatus.CANCELLED)
        elif now >= self.task.expires_at:
            self.stop(BatchStatus.EXPIRED)

    def refuse(self, error: TuneryError) -> None:
        self.stop(BatchStatus.FAILED, [problem(error.code or "invalid_api_key", error.message)])

    # ---- its requests

    def _read_input(self) -> Input:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "input.jsonl"
        try:
            with read(self.context.database) as conn:
                file = files.get_file(conn, self.task.input_file_id, self.task.project_id)
            self.context.blobs.fetch(file.blob, path)
        except NotFound:
            message = say("error.batch_file_gone", file_id=self.task.input_file_id)
            return Input(path, self.task.endpoint, problems=[problem("input_file_not_found", message)])
        return examine(path, self.task.endpoint)

    def _start(self, given: Input) -> None:
        context, batch = self.context, self.task
        try:
            with write(context.database) as conn:
                target = resolve(conn, context.catalog, given.model, batch.project_id)
                total = len(given.places)
                status, now = BatchStatus.IN_PROGRESS, context.clock()
                values = {"model": target.weights_name, "num_requests": total}
                batches.advance(conn, batch.id, self.worker_id, status, now, **values)
        except TuneryError as error:
            line = min(place.line for place in given.places)
            self.stop(BatchStatus.FAILED, [problem(error.code or "", error.message, line=line, param="body.model")])
        self.look()

    def _answered(self) -> set[int]:
        with read(self.context.database) as conn:
            return batches.answered_lines(conn, self.task.id)

    async def _answer(self, given: Input, place: Place) -> None:
        """Until it has a result, or the batch ends without one."""
        request = await asyncio.to_thread(given.request, place)
        call = partial(self._call, request["body"])
        name = str(place.line)
        if (came := await self.ask(name, call)) is None:
            return
        ids, found = came
        if isinstance(found, TuneryError):
            result = _result(place, request["custom_id"], ids, found.status, found.body(), found.text)
            admissions = ()
        else:
            result = _result(place, request["custom_id"], ids, 200, found[1], None)
            admissions = (found[0],)
        await self.keep(f"line {name}", admissions, partial(self._write, result))

    async def _call(self, body: Json, ids: RequestIds) -> tuple[Admission, Json]:
        return await answer(self.context, self.caller, ids, self.task.endpoint, body)

    def _write(self, result: BatchResult) -> None:
        with write(self.context.database) as conn:
            batches.add_result(conn, self.task.id, self.worker_id, result)

    # ---- its end

    def _conclude(self, given: Input) -> None:
        context, batch = self.context, self.task
        ended, errors = self.end or (BatchStatus.COMPLETED, [])
        status = BatchStatus(ended)
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
            ended = batches.end_batch(conn, batch.id, self.worker_id, status, now, errors=errors, **made)
            if ended is not None:
                announce(conn, batch.project_id, f"batch.{ended.status}", batch.id, now=now)
        if ended is None:  # another worker ends it
            for file in filter(None, made.values()):
                context.blobs.delete(file.blob)

    def _begin_files(self, status: BatchStatus) -> tuple[str, str] | None:
        """The ids of output and error file, which the batch notes before they have bytes: whoever comes after a worker
        that died on the way to the end removes what that had written. None: another worker ends it."""
        context, batch, ids = self.context, self.task, (new_id("file"), new_id("file"))
        now = context.clock()
        with write(context.database) as conn:
            if status is BatchStatus.COMPLETED:
                batches.advance(conn, batch.id, self.worker_id, BatchStatus.FINALIZING, now)
            before = batches.get_batch(conn, batch.id, batch.project_id)
            until = now + context.settings.lease_s
            values = {"output_file_id": ids[0], "error_file_id": ids[1]}
            if self.leases.renew(conn, batch.id, self.worker_id, until=until, **values) is None:
                return None
        for left in filter(None, (before.output_file_id, before.error_file_id)):
            context.blobs.delete(blob_path(left))
        return ids

    def _file(self, kind: str, file_id: str, found: Iterable[BatchResult]) -> File | None:
        """Its bytes are in the blobs, not yet its row. None: nothing would be in it."""
        first = next(rows := iter(found), None)
        if first is None:
            return None
        batch, now = self.task, self.context.now()
        counted = _Counted(chain([first], rows))
        info = self.context.blobs.put(blob_path(file_id), counted)
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
