"""The training file that is made of a batch: the prompt of each line of its input, the answer of the same line of its
output."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from tunery.api.access import FilesWriter, check_scope
from tunery.api.body import Body
from tunery.api.context import Context, ContextDep
from tunery.api.leased import KINDS, RESPONSES
from tunery.api.routing import Router
from tunery.api.tunery.answers.routes import keep_rows
from tunery.api.tunery.answers.schemas import DatasetOut
from tunery.api.tunery.answers.service import find
from tunery.api.tunery.datasets.routes import work_folder
from tunery.datasets.answers import Exchange, of_completion, of_response, of_text
from tunery.domain.batches import UNFINISHED, Batch
from tunery.domain.completions import StoredCompletion
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.files import File
from tunery.domain.json_body import BOM
from tunery.domain.responses import StoredResponse
from tunery.domain.tenants import Scope
from tunery.store import batches, files
from tunery.store.database import read
from tunery.texts import say
from tunery.wire.responses.items import read_items, references

router = Router(prefix="/tunery/v1/batches", tags=["Batches"])

Json = dict[str, Any]


class BatchDataset(Body):
    filename: str | None = Field(None, min_length=1, max_length=255, description="By default named after the batch.")


@router.post("/{batch_id}/dataset")
def create_batch_dataset(batch_id: str, body: BatchDataset, caller: FilesWriter, context: ContextDep) -> DatasetOut:
    """A training file of a batch's answers, in the order of its requests. Those that failed, or that cannot be a row,
    are left out and counted by their reason."""
    check_scope(caller, Scope.MODELS_READ)
    with read(context.database) as conn:
        batch = batches.get_batch(conn, batch_id, caller.project_id)
        _check(batch)
        asked, answered = (
            files.find_file(conn, file_id or "", caller.project_id)
            for file_id in (batch.input_file_id, batch.output_file_id)
        )
    if asked is None or answered is None:
        gone = batch.input_file_id if asked is None else batch.output_file_id
        raise InvalidRequest(say("error.batch_dataset_gone", file_id=gone))
    filename = body.filename or f"{batch.id}.jsonl"
    return keep_rows(context, caller, _rows(context, batch, asked, answered), filename, asked.bytes + answered.bytes)


def _check(batch: Batch) -> None:
    """Raises InvalidRequest for a batch that no training file can be made of."""
    if KINDS.get(batch.endpoint) == "embedding":
        raise InvalidRequest(say("error.batch_dataset_embeddings", batch_id=batch.id))
    if batch.status in UNFINISHED:
        raise InvalidRequest(say("error.batch_dataset_unfinished", batch_id=batch.id, status=batch.status))
    if batch.output_file_id is None:
        raise InvalidRequest(say("error.batch_dataset_nothing", batch_id=batch.id, status=batch.status))


def _rows(context: Context, batch: Batch, asked: File, answered: File) -> Iterator[Exchange | str]:
    """One for each request. Both files are in the order of the requests, and the output lacks those that failed."""
    with work_folder(context) as folder:
        for file in (asked, answered):
            context.blobs.fetch(file.blob, folder / file.id)
        answers = _lines(folder / answered.id)
        answer = next(answers, None)
        for line in _lines(folder / asked.id):
            if answer is None or answer["custom_id"] != line["custom_id"]:
                yield "failed"
                continue
            yield _exchange(context, batch, line["body"], answer["response"]["body"])
            answer = next(answers, None)


def _lines(path: Path) -> Iterator[Json]:
    with path.open("rb") as file:
        for raw in file:
            if line := raw.removeprefix(BOM).strip():
                yield orjson.loads(line)


def _exchange(context: Context, batch: Batch, sent: Json, answer: Json) -> Exchange | str:
    if batch.endpoint != RESPONSES:
        stored = StoredCompletion(answer["id"], batch.project_id, answer["created"], answer["model"], sent, answer)
        return of_completion(stored) if KINDS[batch.endpoint] == "chat" else of_text(stored) or "not_one_text"
    own = read_items(sent.get("input") or [])
    if sent.get("previous_response_id") or sent.get("conversation") or references(own):
        return _kept(context, batch.project_id, answer["id"])
    about = batch.project_id, answer["created_at"], answer["model"], answer["status"]
    return of_response(StoredResponse(answer["id"], *about, answer), own, answer["output"])


def _kept(context: Context, project_id: str, response_id: str) -> Exchange | str:
    """What came before a response lies where responses are kept."""
    with read(context.database) as conn:
        try:
            return find(conn, project_id, response_id).exchange
        except NotFound:
            return "earlier_gone"
