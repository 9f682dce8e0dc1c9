"""Folders and files that are the user's alone."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunery import private
from tunery.models.sources import cache as sources
from tunery.settings import SettingsError, load_settings
from tunery.store.blobs import Blobs
from tunery.store.database import migrate, open_database


@pytest.fixture(autouse=True)
def careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, permissions: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    path.chmod(permissions)
    return path


def test_a_home_is_made_closed_and_what_comes_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    private.keep(home)
    (home / "later").mkdir()
    (home / "later" / "file").write_text("x")
    assert [mode(path) for path in (home, home / "later", home / "later" / "file")] == [0o700, 0o700, 0o600]


@pytest.mark.parametrize(
    "name", ["tunery.db", "outbox/a.eml", "blobs/files/file-1", "work/ftjob-1/state/state.pt", "x/y/z/a"]
)
def test_what_is_there_is_closed_at_any_depth(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "home" / name)
    private.keep(tmp_path / "home")
    assert mode(file) == 0o600
    assert all(mode(folder) == 0o700 for folder in file.relative_to(tmp_path).parents[:-1] and [file.parent])


def test_blobs_are_walked_through_once_and_new_files_in_its_folders_each_time(tmp_path: Path) -> None:
    blob, mail = (write(tmp_path / name) for name in ("blobs/files/file-1", "outbox/a.eml"))
    private.keep(tmp_path)
    for path in (blob, mail):
        path.chmod(0o644)  # as one that was copied back from a backup
    private.keep(tmp_path)
    assert mode(mail) == 0o600
    assert mode(blob) == 0o644, "each start looks at every blob"
    assert mode(tmp_path / "blobs" / "files") == 0o700


def test_a_walk_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write(tmp_path / f"blobs/files/deep/file-{n}") for n in range(3)]
    count = iter(range(100))

    def die(path: Path) -> None:
        if path.name.startswith("file-") and next(count) == 1:
            raise KeyboardInterrupt
        close(path)

    close = private.close
    monkeypatch.setattr(private, "close", die)
    with pytest.raises(KeyboardInterrupt):
        private.keep(tmp_path)
    assert mode(tmp_path) == 0o700, "what is still open is behind a closed door"
    monkeypatch.undo()
    private.keep(tmp_path)
    assert [mode(file) for file in files] == [0o600] * 3


def test_links_lead_to_what_is_not_ours(tmp_path: Path) -> None:
    shared = write(tmp_path / "shared" / "weights")
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").symlink_to(shared)
    (home / "folder").symlink_to(shared.parent)
    private.keep(home)
    assert (mode(shared), mode(shared.parent)) == (0o644, 0o777)


def test_a_program_stays_one_and_a_folder_for_everybody_stays_open(tmp_path: Path) -> None:
    program = write(tmp_path / "program", 0o755)
    tmp_path.chmod(0o1777)
    private.keep(tmp_path)
    assert mode(program) == 0o700
    assert mode(tmp_path) == 0o1777


def test_database_and_blobs_outside_home_are_closed(tmp_path: Path) -> None:
    home, database, blobs = tmp_path / "home", write(tmp_path / "d" / "my.db"), tmp_path / "b"
    database.write_bytes(b"")
    blobs.mkdir()
    settings = load_settings(home=home, database_url=f"sqlite:///{database}", blob_url=blobs.as_uri())
    private.keep(home)
    engine = open_database(settings)
    migrate(engine)
    Blobs.open(settings).put("files/a", b"x")
    found = [database, *database.parent.glob("my.db-*"), database.parent / "secrets.key", blobs / "files" / "a"]
    assert [mode(path) for path in found] == [0o600] * len(found) and len(found) >= 4
    assert (mode(blobs), mode(blobs / "files"), mode(database.parent)) == (0o700, 0o700, 0o777)
    engine.dispose()


@pytest.mark.parametrize(
    ("cache", "folder", "file"), [(0o755, 0o755, 0o644), (0o750, 0o750, 0o640), (0o700, 0o700, 0o600)]
)
def test_who_may_read_the_model_cache_may_read_its_models(
    tmp_path: Path, tiny_model_dir: Path, cache: int, folder: int, file: int
) -> None:
    """An operator may share one among users; it lies outside home and is left as it is."""
    models = tmp_path / "models"
    models.mkdir()
    models.chmod(cache)
    before = mode(next(tiny_model_dir.glob("*.safetensors")))
    private.keep(tmp_path / "home")
    made = sources.ensure(f"path:{tiny_model_dir}", models)
    assert (mode(models), mode(made), mode(made / "tunery.json")) == (cache, folder, file)
    assert mode(next(tiny_model_dir.glob("*.safetensors"))) == before


@pytest.mark.parametrize(
    ("home", "reason"), [("file", "it is a file"), ("file/below", "not a directory"), ("/proc/home", "no such file")]
)
def test_a_home_that_cannot_be_written_is_a_sentence(tmp_path: Path, home: str, reason: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match=f"{home} cannot be used: {reason}.*TUNERY_HOME"):
        private.keep(tmp_path / home)


@pytest.mark.parametrize("permissions", [0o500, 0o300, 0o600])
def test_a_home_of_another_users_is_a_sentence(tmp_path: Path, permissions: int) -> None:
    """In a process of its own, which gives up root's rights to write everywhere."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir(mode=permissions)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.chown(home, 65534, 65534)
                os.setgid(65534)
                os.setuid(65534)
            private.keep(home)
        except SettingsError as exc:
            os._exit(0 if "permission denied" in str(exc) else 3)
        except BaseException:
            os._exit(2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
