import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunery.settings import Settings
from tunery.store.blobs import Blobs, NoSuchBlob

MIB = 1024 * 1024


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return Blobs.open(Settings(home=tmp_path / "home with spaces"))
    return Blobs.open(Settings(home=tmp_path, **request.getfixturevalue("s3_settings")))


def test_what_is_put_comes_back_with_its_size_and_hash(blobs: Blobs) -> None:
    info = blobs.put("files/file-1", b"hello")
    assert (info.bytes, info.sha256) == (5, hashlib.sha256(b"hello").hexdigest())
    assert blobs.read("files/file-1") == b"hello"
    assert blobs.list("files") == ("files/file-1",)


def test_every_kind_of_source_is_streamed(blobs: Blobs, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20
    (tmp_path / "source").write_bytes(content)
    pieces = (content[start : start + 1000] for start in range(0, len(content), 1000))
    for name, source in {"a": pieces, "b": io.BytesIO(content), "c": tmp_path / "source", "d": content}.items():
        assert blobs.put(f"files/{name}", source).bytes == len(content)
        assert blobs.read(f"files/{name}") == content


def test_an_object_of_several_parts_is_whole(blobs: Blobs) -> None:
    info = blobs.put("files/large", (bytes([number]) * MIB for number in range(13)))
    digest = hashlib.sha256()
    for piece in blobs.get("files/large"):
        digest.update(piece)
    assert (info.bytes, info.sha256) == (13 * MIB, digest.hexdigest())


def test_an_empty_object_is_an_object(blobs: Blobs) -> None:
    assert blobs.put("files/empty", b"").bytes == 0
    assert blobs.read("files/empty") == b""


def test_a_stream_that_breaks_off_stores_nothing(blobs: Blobs) -> None:
    def broken() -> Iterator[bytes]:
        for _ in range(12):
            yield b"x" * MIB
        raise ConnectionError("the client is gone")

    with pytest.raises(ConnectionError, match="the client is gone"):
        blobs.put("files/broken", broken())
    assert blobs.list("files") == ()


def test_put_replaces(blobs: Blobs) -> None:
    blobs.put("files/a", b"first")
    blobs.put("files/a", b"second")
    assert blobs.read("files/a") == b"second"


def test_a_missing_object_is_named(blobs: Blobs, tmp_path: Path) -> None:
    for act in (
        lambda: blobs.get("files/none"),
        lambda: blobs.download("files/none", tmp_path / "out" / "file"),
    ):
        with pytest.raises(NoSuchBlob, match="files/none"):
            act()
    assert list((tmp_path / "out").iterdir()) == []


def test_delete_is_idempotent(blobs: Blobs) -> None:
    blobs.put("files/a", b"1")
    blobs.delete("files/a")
    blobs.delete("files/a")
    assert blobs.list("files") == ()


def test_folders_go_up_and_come_down(blobs: Blobs, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "deep" / "weights: 1").write_bytes(b"w")
    infos = blobs.upload_dir("jobs/ftjob-1/state", source)
    assert [info.path for info in infos] == ["jobs/ftjob-1/state/config.json", "jobs/ftjob-1/state/deep/weights: 1"]
    blobs.put("jobs/ftjob-10/state/other", b"not ours")
    assert blobs.download_dir("jobs/ftjob-1/state", target) == 2
    assert (target / "deep" / "weights: 1").read_bytes() == b"w"
    blobs.delete_dir("jobs/ftjob-1")
    assert blobs.list("jobs") == ("jobs/ftjob-10/state/other",)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "files/../../x", "a//b", "a/."])
def test_a_path_that_leaves_the_store_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="Not a blob path"):
        Blobs.in_folder(tmp_path).put(path, b"")


def test_a_folder_tells_where_an_object_lies(tmp_path: Path) -> None:
    blobs = Blobs.in_folder(tmp_path)
    blobs.put("files/a", b"1")
    local = blobs.local_path("files/a")
    assert local is not None and local.read_bytes() == b"1"


def test_a_bucket_has_no_local_path(s3_settings: dict[str, str]) -> None:
    assert Blobs.open(Settings(**s3_settings)).local_path("files/a") is None


def test_an_unknown_kind_of_store_is_refused() -> None:
    with pytest.raises(ValueError, match="file:// or s3://"):
        Blobs.open(Settings(blob_url="ftp://somewhere"))
