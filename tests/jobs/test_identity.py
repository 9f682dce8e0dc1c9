import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tunery.jobs import identity
from tunery.jobs.identity import is_dead_here, parse_identity, this_worker


@pytest.fixture(autouse=True, params=["with /proc", "without"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test here holds on Linux and on a system that has no /proc, such as macOS."""
    if request.param == "without":
        monkeypatch.setattr(identity, "PROC", tmp_path)


def test_identity_survives_its_text_form() -> None:
    me = this_worker()
    assert parse_identity(str(me)) == me
    assert parse_identity("worker-7") is None


def test_living_worker_is_not_taken_for_dead() -> None:
    me = this_worker()
    assert not is_dead_here(str(me), me)


def test_process_that_ended_is_dead_even_before_its_parent_collects_it() -> None:
    me = this_worker()
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # returns when the child has closed its output, at its end
    gone = replace(me, pid=child.pid, start=1)
    assert is_dead_here(str(gone), me)
    child.wait()
    child.stdout.close()
    assert is_dead_here(str(gone), me)


def test_a_pid_that_came_round_again_is_another_process() -> None:
    me = this_worker()
    assert is_dead_here(str(replace(me, start=me.start - 1)), me)


def test_worker_of_another_machine_or_namespace_is_never_taken_for_dead() -> None:
    me = this_worker()
    assert not is_dead_here(str(replace(me, host="elsewhere", pid=999_999_999)), me)
    assert not is_dead_here(str(replace(me, scope="another-boot", pid=999_999_999)), me)
    assert not is_dead_here("not an identity", me)
