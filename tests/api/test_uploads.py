"""The Uploads API: parts in any order, one file in the order of completion, and what must not become one."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.conftest import EXAMPLE, Api

CONTENT = [EXAMPLE * count for count in (1, 2, 3)]
WHOLE = b"".join(CONTENT)


def begin(api: Api, **values: Any) -> str:
    body = {"bytes": len(WHOLE), "filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", **values}
    answer = api.client.post("/v1/uploads", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def add(api: Api, upload_id: str, content: bytes) -> str:
    answer = api.client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("upload", content)})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def complete(api: Api, upload_id: str, parts: list[str], **values: Any):
    return api.client.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": parts, **values})


def test_completion_fixes_the_order_of_parts_sent_in_parallel(api: Api) -> None:
    upload_id = begin(api)
    with ThreadPoolExecutor(3) as pool:
        later, middle, first = pool.map(lambda content: add(api, upload_id, content), reversed(CONTENT))
    answer = complete(api, upload_id, [first, middle, later], md5=hashlib.md5(WHOLE).hexdigest())
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    file = answer.json()["file"]
    assert (file["filename"], file["bytes"], file["status"]) == ("big.jsonl", len(WHOLE), "processed")
    assert api.client.get(f"/v1/files/{file['id']}/content").content == WHOLE
    assert api.context.blobs.list("uploads") == ()


@pytest.mark.parametrize(
    ("choose", "values"),
    [
        (lambda parts: parts[:2], {}),
        (lambda parts: [*parts, "part_unknown"], {}),
        (lambda parts: [parts[0], parts[0], parts[1]], {}),
        (lambda parts: parts, {"md5": "0" * 32}),
    ],
)
def test_parts_that_are_not_what_was_announced_leave_the_upload_pending(api: Api, choose: Any, values: Any) -> None:
    upload_id = begin(api)
    parts = [add(api, upload_id, content) for content in CONTENT]
    answer = complete(api, upload_id, choose(parts), **values)
    assert answer.status_code == 400
    assert api.context.blobs.list("files") == ()
    assert complete(api, upload_id, parts).status_code == 200


def test_upload_that_is_not_jsonl_makes_no_file(api: Api) -> None:
    upload_id = begin(api, bytes=5)
    answer = complete(api, upload_id, [add(api, upload_id, b"hello")])
    assert answer.json()["error"]["message"].startswith("Expected file to have JSONL format")


def test_completing_twice_gives_one_file(api: Api) -> None:
    upload_id = begin(api, bytes=len(EXAMPLE))
    part = add(api, upload_id, EXAMPLE)
    assert complete(api, upload_id, [part]).status_code == 200
    again = complete(api, upload_id, [part])
    assert again.status_code == 400
    assert "completed" in again.json()["error"]["message"]
    assert len(api.client.get("/v1/files").json()["data"]) == 1


def test_two_completions_at_once_give_one_file(api: Api) -> None:
    upload_id = begin(api, bytes=len(EXAMPLE))
    part = add(api, upload_id, EXAMPLE)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: complete(api, upload_id, [part]).status_code, range(4)))
    assert sorted(answers) == [200, 400, 400, 400]
    assert len(api.client.get("/v1/files").json()["data"]) == 1
    assert len(api.context.blobs.list("files")) == 1


def test_cancelled_upload_takes_no_more_parts(api: Api) -> None:
    upload_id = begin(api)
    add(api, upload_id, EXAMPLE)
    assert api.client.post(f"/v1/uploads/{upload_id}/cancel").json()["status"] == "cancelled"
    answer = api.client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("upload", EXAMPLE)})
    assert answer.status_code == 400
    assert api.context.blobs.list("uploads") == ()


def test_upload_expires_after_an_hour(api: Api) -> None:
    upload_id = begin(api)
    api.clock.now += 3600
    answer = api.client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("upload", EXAMPLE)})
    assert "expired" in answer.json()["error"]["message"]


def test_lifetime_of_the_file_is_kept(api: Api) -> None:
    upload_id = begin(api, bytes=len(EXAMPLE), expires_after={"anchor": "created_at", "seconds": 7200})
    file = complete(api, upload_id, [add(api, upload_id, EXAMPLE)]).json()["file"]
    assert file["expires_at"] == file["created_at"] + 7200


def test_another_projects_upload_does_not_exist(api: Api) -> None:
    upload_id = begin(api)
    stranger = api.as_key(api.make_stranger())
    for verb, body in (("cancel", None), ("complete", {"part_ids": []})):
        answer = api.client.post(f"/v1/uploads/{upload_id}/{verb}", json=body, headers=stranger)
        assert answer.status_code == 404
