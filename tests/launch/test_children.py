"""Parts of the server as processes: started again, ended with their parent, one server a home."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.processes import is_running, wait_for
from tunery.launch.children import Child, ChildSpec
from tunery.launch.lock import HomeInUse, HomeLock, running_server
from tunery.launch.ports import free_port, is_free


@pytest.fixture
def make_child(tmp_path: Path) -> Callable[[str], Child]:
    """A child that runs the given source as its module."""

    def make(source: str) -> Child:
        (tmp_path / "part.py").write_text(textwrap.dedent(source))
        return Child(ChildSpec("part", "part", (), {"PYTHONPATH": str(tmp_path)}, tmp_path / "part.log"))

    return make


def test_fallen_part_is_started_again_after_a_growing_delay(make_child: Callable[[str], Child]) -> None:
    child = make_child("print('no luck', flush=True); raise SystemExit(3)")
    child.start()
    heard: list[str] = []
    wait_for(lambda: [event for event in [child.look()] if event and (heard.append(event) or True)] and len(heard) == 2)
    child.wait(5)
    assert "code 3" in heard[0] and "0.5 s" in heard[0]
    assert "1 s" in heard[1]
    assert "no luck" in child.last_words()


def test_part_that_ignores_sigterm_is_killed(make_child: Callable[[str], Child]) -> None:
    child = make_child("""
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('up', flush=True)
        time.sleep(60)
    """)
    child.start()
    wait_for(lambda: "up" in child.last_words())
    child.terminate()
    child.wait(0.2)
    assert child.pid is None


def test_killed_server_leaves_no_part_behind(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    (tmp_path / "server.py").write_text(
        textwrap.dedent("""
        import pathlib, sys, time
        from tunery.launch.children import Child, ChildSpec
        here = pathlib.Path(__file__).parent
        child = Child(ChildSpec("part", "part", (), {"PYTHONPATH": str(here)}, here / "part.log"))
        child.start()
        print(child.pid, flush=True)
        time.sleep(60)
    """)
    )
    with subprocess.Popen([sys.executable, str(tmp_path / "server.py")], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        part = int(server.stdout.readline())
        wait_for((tmp_path / "part.log").read_text)
        server.kill()
    wait_for(lambda: not is_running(part))


def test_one_server_a_home(home: Path) -> None:
    first = HomeLock(home)
    first.acquire("http://127.0.0.1:8000")
    found = running_server(home)
    assert found is not None and (found.pid, found.url) == (os.getpid(), "http://127.0.0.1:8000")
    with pytest.raises(HomeInUse, match="8000"):
        HomeLock(home).acquire("http://127.0.0.1:8001")
    first.release()
    assert running_server(home) is None
    first.acquire("http://127.0.0.1:8001")
    first.release()


def test_free_port_is_free() -> None:
    assert is_free("127.0.0.1", free_port("127.0.0.1"))


def test_what_the_web_process_starts_does_not_import_the_whole_server() -> None:
    """A spawned process imports the main module of the one that started it before it does anything."""
    looked = "import sys, tunery.launch.web; print(*{'fastapi', 'nicegui', 'tunery.api'} & set(sys.modules))"
    imported = subprocess.run([sys.executable, "-c", looked], capture_output=True, text=True, check=True)
    assert imported.stdout.split() == []
