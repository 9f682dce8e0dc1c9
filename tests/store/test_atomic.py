"""Files and folders that are replaced whole, whatever happens while they are written."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tunery import atomic

Replacing = Callable[[Path], AbstractContextManager[Path]]


def put(replacing: Replacing, path: Path, text: str) -> None:
    with replacing(path) as part:
        (part / "content" if part.is_dir() else part).write_text(text)


def content(path: Path) -> str:
    return (path / "content" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("replacing", [atomic.replacing, atomic.replacing_folder])
def test_an_error_leaves_the_old_content_and_nothing_beside_it(replacing: Replacing, tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(replacing, target, "old")
    put(replacing, target, "new")
    with pytest.raises(OSError, match="disk is full"), replacing(target) as part:
        (part / "content" if part.is_dir() else part).write_text("ha")
        raise OSError("the disk is full")
    assert content(target) == "new"
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("replacing", [atomic.replacing, atomic.replacing_folder])
def test_content_and_name_are_synced_in_that_order(
    replacing: Replacing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, done = tmp_path / "target", []
    real_sync, real_rename, real_replace = atomic.sync, Path.rename, Path.replace

    def sync(path: Path) -> None:
        done.append("folder" if path == tmp_path else "content")
        real_sync(path)

    monkeypatch.setattr(atomic, "sync", sync)
    monkeypatch.setattr(Path, "rename", lambda self, to: done.append("rename") or real_rename(self, to))
    monkeypatch.setattr(Path, "replace", lambda self, to: done.append("rename") or real_replace(self, to))
    put(replacing, target, "new")
    assert done[0] == "content"
    assert done[-2:] == ["rename", "folder"]
    assert set(done[:-2]) == {"content"}


KILLED = """
import os, signal, sys
from pathlib import Path
from tunery import atomic
with getattr(atomic, sys.argv[2])(Path(sys.argv[1])) as part:
    (part / "content" if part.is_dir() else part).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["replacing", "replacing_folder"])
def test_a_writer_that_is_killed_leaves_the_old_content(name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(getattr(atomic, name), target, "old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(target), name]).returncode == -signal.SIGKILL
    assert content(target) == "old"
    assert len(os.listdir(tmp_path)) == 2
    atomic.remove_parts(tmp_path)
    assert os.listdir(tmp_path) == ["target"]


def test_writers_side_by_side_leave_what_one_of_them_wrote(tmp_path: Path) -> None:
    target, texts = tmp_path / "target", [letter * 100_000 for letter in "abcd"]
    writers = [threading.Thread(target=put, args=(atomic.replacing, target, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert content(target) in texts


def test_a_folder_that_is_there_may_stay(tmp_path: Path) -> None:
    target = tmp_path / "target"
    put(atomic.replacing_folder, target, "first")
    with atomic.replacing_folder(target, unless_there=True) as part:
        (part / "content").write_text("second")
    assert content(target) == "first"
    assert os.listdir(tmp_path) == ["target"]
