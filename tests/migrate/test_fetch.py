"""Source → bundle, against the shapes that only the real service returns."""

from pathlib import Path
from typing import Any

import pytest

from tunery.domain.errors import InvalidRequest
from tunery.migrate.bundle import Bundle, sha256_of
from tunery.migrate.deadlines import load_deadlines
from tunery.migrate.fetch import fetch_all
from tunery.migrate.inventory import take_inventory
from tunery.migrate.source import Source

NOVEMBER_25 = 1_795_564_800.0  # 2026-11-25 00:00 UTC


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.create(tmp_path / "bundle", source="test", now=1)


@pytest.fixture
def source(recorded_openai: Any) -> Source:
    return Source(recorded_openai.client(), sleep=lambda _: None)


def test_every_byte_and_field_comes_over(recorded_openai: Any, source: Source, bundle: Bundle) -> None:
    fetched = fetch_all(source, bundle)
    assert fetched.failures == {}
    assert [bundle.get("jobs", job["id"])["job"] for job in recorded_openai.jobs] == recorded_openai.jobs
    for name, content in recorded_openai.contents.items():
        assert bundle.content(name).read_bytes() == content
        assert bundle.get("files", name)["sha256"] == sha256_of(bundle.content(name))
    assert len(bundle.ids("completions")) == 3


def test_a_deleted_file_is_kept_as_absent_with_its_reason(source: Source, bundle: Bundle) -> None:
    fetch_all(source, bundle)
    assert bundle.get("files", "file-gone")["absent"] == "404: No such File object: file-gone"


@pytest.mark.parametrize("status", [400, 403, 404, 410, 451])
@pytest.mark.parametrize(
    "path",
    [
        "/files/file-train/content",
        f"/fine_tuning/jobs/ftjob-{1:024d}/events",
        f"/fine_tuning/jobs/ftjob-{1:024d}/checkpoints",
        "/chat/completions/chatcmpl-1/messages",
    ],
)
def test_what_the_account_cannot_give_is_gone_and_no_failure(
    recorded_openai: Any, source: Source, bundle: Bundle, path: str, status: int
) -> None:
    recorded_openai.refusals[f"/v1{path}"] = status
    assert fetch_all(source, bundle).failures == {}
    recorded_openai.requests.clear()
    fetch_all(source, bundle)
    assert f"/v1{path}" not in recorded_openai.requests
    if path.endswith("content"):
        assert bundle.get("files", "file-train")["absent"].startswith(f"{status}: ")


def test_a_closed_endpoint_does_not_stop_the_rest(source: Source, bundle: Bundle) -> None:
    fetched = fetch_all(source, bundle)
    assert "winding down" in fetched.closed["evals"]
    assert fetched.new["jobs"] == 2


def test_a_second_run_asks_only_for_what_is_new(recorded_openai: Any, source: Source, bundle: Bundle) -> None:
    fetch_all(source, bundle)
    recorded_openai.requests.clear()
    fetched = fetch_all(source, bundle)
    assert fetched.new == {"files": 0, "jobs": 0, "completions": 0}
    assert not [
        path for path in recorded_openai.requests if "content" in path or "events" in path or "messages" in path
    ]


def test_a_job_that_had_not_ended_is_fetched_again(recorded_openai: Any, source: Source, bundle: Bundle) -> None:
    recorded_openai.jobs[0]["status"] = "running"
    fetch_all(source, bundle)
    recorded_openai.jobs[0]["status"] = "succeeded"
    assert fetch_all(source, bundle).new["jobs"] == 1


def test_rate_limits_are_waited_out(recorded_openai: Any, source: Source, bundle: Bundle) -> None:
    recorded_openai.rate_limits = 5
    assert fetch_all(source, bundle).failures == {}


def test_one_failing_object_is_reported_and_the_rest_goes_on(
    recorded_openai: Any, source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.content("file-train").mkdir()  # the bytes cannot be moved into place
    fetched = fetch_all(source, bundle)
    assert list(fetched.failures) == [("files", "file-train")]
    assert bundle.has("files", "file-result")


def test_a_bundle_of_another_source_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidRequest, match="choose another folder"):
        Bundle.create(bundle.folder, source="elsewhere", now=2)


def test_an_id_cannot_name_a_path_outside_the_folder(bundle: Bundle) -> None:
    bundle.put("jobs", "../../escape", {"job": {}})
    assert bundle.ids("jobs") == ["../../escape"]
    assert not (bundle.folder.parent / "escape.json").exists()


def test_the_inventory_counts_days_and_names_what_each_job_needs(source: Source) -> None:
    inventory = take_inventory(source, load_deadlines(), now=NOVEMBER_25)
    job = next(item for item in inventory.items if item.kind == "job")
    assert job.depends_on == ("file-train", "file-result")
    assert job.days_left == 50
    assert inventory.training_ends_in == 42
    assert "winding down" in inventory.closed["evals"]
