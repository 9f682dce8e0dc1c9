"""The Files API: forms as clients send them, and forms as nobody should."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import EXAMPLE, NOW, Api
from tunery.domain.files import File, FilePurpose
from tunery.store import files
from tunery.store.database import write

BOUNDARY = "x-boundary"


def form(*parts: tuple[str, bytes], end: str = "--") -> bytes:
    """A body part by part: (the rest of its content-disposition, content)."""
    body = b""
    for disposition, content in parts:
        body += f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}{end}\r\n".encode()


def post(api: Api, body: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}"):
    return api.client.post("/v1/files", content=body, headers={"content-type": content_type})


def blobs_of(api: Api) -> tuple[str, ...]:
    return api.context.blobs.list("files")


def test_purpose_may_follow_the_file(api: Api) -> None:
    # The Node SDK sends the fields in the order of the object that the user wrote.
    answer = post(api, form(('name="file"; filename="a.jsonl"', EXAMPLE), ('name="purpose"', b"fine-tune")))
    assert answer.status_code == 200
    assert (answer.json()["filename"], answer.json()["bytes"]) == ("a.jsonl", len(EXAMPLE))


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ("filename*=utf-8''gr%C3%B6%C3%9Fe.jsonl", "größe.jsonl"),
        ("filename*=UTF-8'de'gr%C3%B6%C3%9Fe.jsonl", "größe.jsonl"),
        ("filename=\"x.jsonl\"; filename*=utf-8''%E8%B3%AA%E5%95%8F.jsonl", "質問.jsonl"),
        ("filename*=utf-8''%E8%B3%AA%E5%95%8F.jsonl; filename=\"x.jsonl\"", "質問.jsonl"),
        ("filename*=iso-8859-1''gr%F6%DFe.jsonl", "größe.jsonl"),
        ('filename="質問 [final].jsonl"', "質問 [final].jsonl"),
        ('filename="a; b \\"c\\".jsonl"', 'a; b "c".jsonl'),
        ("filename*=utf-9''a.jsonl", "a.jsonl"),
    ],
)
def test_names_of_files_as_clients_write_them(api: Api, disposition: str, filename: str) -> None:
    answer = post(api, form((f'name="file"; {disposition}', EXAMPLE), ('name="purpose"', b"fine-tune")))
    assert answer.json()["filename"] == filename


def test_content_comes_back_byte_for_byte(api: Api) -> None:
    content = bytes(range(256)) * 5000
    file = api.make_file(content, purpose="user_data")
    assert api.client.get(f"/v1/files/{file['id']}/content").content == content


def test_file_that_is_not_jsonl_is_refused_and_leaves_nothing(api: Api) -> None:
    answer = post(api, form(('name="purpose"', b"fine-tune"), ('name="file"; filename="a"', EXAMPLE + b"hello\n")))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(
        "Expected file to have JSONL format, where every line is a JSON dictionary. Line 2 is not a dictionary"
    )
    assert blobs_of(api) == ()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(('name="purpose"', b"fine-tune")), "file"),
        (form(('name="file"; filename="a"', EXAMPLE)), "purpose"),
        (form(('name="file"; filename="a"', EXAMPLE), ('name="purpose"', b"party")), "purpose"),
        (form(('name="file"; filename="a"', EXAMPLE), ('name="purpose"', b"\xff")), None),
        (form(('name="file"; filename="a"', EXAMPLE), ('name="purpose"', b"fine-tune"), end=""), None),
        (form(('filename="a"', EXAMPLE)), None),
        (b"", None),
        (b"no boundary here", None),
    ],
)
def test_broken_forms_are_400_and_leave_nothing(api: Api, body: bytes, param: str | None) -> None:
    answer = post(api, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert blobs_of(api) == ()


def test_body_of_another_type_is_400(api: Api) -> None:
    assert post(api, b"{}", "application/json").status_code == 400


def test_declared_size_beyond_the_limit_is_refused_before_it_is_read(api: Api) -> None:
    answer = api.client.post(
        "/v1/files",
        content=b"",
        headers={"content-type": f"multipart/form-data; boundary={BOUNDARY}", "content-length": str(10**10)},
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(("seconds", "status"), [("3600", 200), ("3599", 400), ("2592001", 400), ("soon", 400)])
def test_lifetime_has_bounds(api: Api, seconds: str, status: int) -> None:
    data = {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}
    answer = api.client.post("/v1/files", files={"file": ("a", EXAMPLE)}, data=data)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["expires_at"] == int(NOW) + 3600


def test_files_for_batches_live_for_thirty_days(api: Api) -> None:
    assert api.make_file(purpose="batch")["expires_at"] == int(NOW) + 30 * 86400


def test_names_lose_their_folders(api: Api) -> None:
    answer = post(
        api, form(('name="file"; filename="../../etc/a\\b.jsonl"', EXAMPLE), ('name="purpose"', b"fine-tune"))
    )
    assert answer.json()["filename"] == "b.jsonl"


def test_list_pages_and_ends(api: Api) -> None:
    made = [api.make_file()["id"] for _ in range(3)]
    first = api.client.get("/v1/files", params={"limit": 2, "order": "asc"}).json()
    assert [file["id"] for file in first["data"]] == made[:2]
    assert (first["has_more"], first["last_id"]) == (True, made[1])
    rest = api.client.get("/v1/files", params={"limit": 2, "order": "asc", "after": made[1]}).json()
    assert [file["id"] for file in rest["data"]] == made[2:]
    assert rest["has_more"] is False
    empty = api.client.get("/v1/files", params={"after": "file-unknown"}).json()
    assert (empty["data"], empty["first_id"], empty["has_more"]) == ([], None, False)


def test_list_filters_by_purpose(api: Api) -> None:
    api.make_file(purpose="batch")
    assert api.client.get("/v1/files", params={"purpose": "fine-tune"}).json()["data"] == []


def test_result_file_is_served_as_base64(api: Api) -> None:
    content = b"step,train_loss\n" + b"1,0.50000\n" * 200_000
    info = api.context.blobs.put("files/file-result", content)
    file = File(
        id="file-result",
        project_id=api.project_id,
        created_at=int(NOW),
        filename="step_metrics.csv",
        purpose=FilePurpose.FINE_TUNE_RESULTS,
        bytes=info.bytes,
        sha256=info.sha256,
        blob="files/file-result",
    )
    with write(api.engine) as conn:
        files.insert_file(conn, file)
    served = api.client.get("/v1/files/file-result/content").content
    assert base64.b64decode(served, validate=True) == content


def test_deleted_file_is_gone_with_its_bytes(api: Api) -> None:
    file = api.make_file()
    assert api.client.delete(f"/v1/files/{file['id']}").json() == {
        "object": "file",
        "id": file["id"],
        "deleted": True,
    }
    assert api.client.get(f"/v1/files/{file['id']}").json()["error"]["message"] == f"No such File object: {file['id']}"
    assert api.client.delete(f"/v1/files/{file['id']}").status_code == 404
    assert blobs_of(api) == ()


def test_file_of_a_job_that_has_not_ended_stays(api: Api) -> None:
    file = api.make_file()
    job = api.make_job(training_file=file["id"])
    assert api.client.delete(f"/v1/files/{file['id']}").status_code == 400
    api.client.post(f"/v1/fine_tuning/jobs/{job.id}/cancel")
    assert api.client.delete(f"/v1/files/{file['id']}").status_code == 200


def test_storage_limit_holds(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=len(EXAMPLE) * 20)
    api.make_file()
    answer = api.client.post("/v1/files", files={"file": ("a", EXAMPLE * 12)}, data={"purpose": "fine-tune"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "storage_limit_exceeded"
    assert len(blobs_of(api)) == 1


def test_another_projects_file_does_not_exist(api: Api) -> None:
    file = api.make_file()
    stranger = api.as_key(api.make_stranger())
    for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
        assert api.client.get(path, headers=stranger).status_code == 404
    assert api.client.delete(f"/v1/files/{file['id']}", headers=stranger).status_code == 404


def test_files_and_uploads_stream_into_a_bucket(make_api: Callable[..., Api], s3_settings: dict[str, Any]) -> None:
    api = make_api(**s3_settings)
    content = EXAMPLE * (12 * 1024**2 // len(EXAMPLE))  # more than two parts of S3's
    file = api.make_file(content)
    assert api.client.get(f"/v1/files/{file['id']}/content").content == content
    body = {"bytes": 2 * len(content), "filename": "a", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    upload = api.client.post("/v1/uploads", json=body).json()["id"]
    path = f"/v1/uploads/{upload}"
    parts = [api.client.post(f"{path}/parts", files={"data": ("a", content)}).json()["id"] for _ in range(2)]
    done = api.client.post(f"{path}/complete", json={"part_ids": parts}).json()
    assert api.client.get(f"/v1/files/{done['file']['id']}/content").content == content * 2
