"""No way out of a sandbox, tried by the user that the tests run as, and by an ordinary one where that is root."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.ways_out import DEADLY, NAMES, OPEN_TO_ANYONE, SOURCE

ROOT = Path(__file__).parents[2]
ORDINARY = 65534
USERS = ["root", "ordinary"] if os.geteuid() == 0 else ["ordinary"]


def as_ordinary(home: str) -> list[str]:
    """Starts a program as a user who owns nothing; checkout and Python may lie where only root goes."""
    shown = sorted({str(ROOT), sys.prefix, sys.base_prefix, home})
    parents = sorted(
        {str(parent) for path in shown for parent in Path(path).parents} - {"/", "/tmp", "/usr", "/usr/local"}
    )
    line = ["bwrap", "--unshare-pid", "--die-with-parent", "--cap-add", "ALL", "--dev-bind", "/dev", "/dev"]
    line += ["--proc", "/proc", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"]
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            line += ["--symlink", f"usr/{name}", f"/{name}"]
        elif os.path.exists(f"/{name}"):
            line += ["--ro-bind", f"/{name}", f"/{name}"]
    line += ["--perms", "1777", "--tmpfs", "/tmp"]
    for path in parents:
        line += ["--perms", "0755", "--dir", path]
    for path in shown:
        if not path.startswith("/usr"):
            line += ["--ro-bind", path, path]
    return [*line, "setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups", "--"]


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server's home and sockets, which a grader could reach if it were let out."""
    secret = tmp_path_factory.mktemp("home") / "secrets.key"
    secret.write_text("secret")
    secret.parent.chmod(0o755)  # so that no wall of ours is in an ordinary user's way but the sandbox
    secret.chmod(0o644)
    abstract = f"tunery-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + abstract)
        unix.listen()
        yield {
            "secret": str(secret),
            "source": str(ROOT / "pyproject.toml"),
            "port": server.getsockname()[1],
            "unix": "/run/none.sock",
            "abstract": abstract,
        }


def run_python(*line: str, before: list[str] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [*(before or []), sys.executable, *line],
        cwd="/" if before else ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "TUNERY_API_KEY": "sk-secret"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=USERS)
def outcomes(request: pytest.FixtureRequest, beside: dict[str, Any]) -> dict[str, Any]:
    before = (
        as_ordinary(str(Path(beside["secret"]).parent)) if os.geteuid() == 0 and request.param == "ordinary" else None
    )
    return run_python("-m", "tests.sandbox.ways_out", json.dumps(beside), before=before)


def test_at_least_25_ways_are_tried() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 25


def test_without_a_sandbox_the_ways_lead_out(beside: dict[str, Any]) -> None:
    tries = f"print(json.dumps({{way: grade({{}}, {{**{beside!r}, 'way': way}}) for way in {OPEN_TO_ANYONE!r}}}))"
    assert run_python("-c", f"{SOURCE}\nimport json\n{tries}") == dict.fromkeys(OPEN_TO_ANYONE, True)


@pytest.mark.timeout(500)
@pytest.mark.parametrize("way", NAMES)
def test_no_way_leads_out(outcomes: dict[str, Any], way: str) -> None:
    if way in DEADLY:
        assert "process ended" in outcomes[way]
    else:
        assert outcomes[way] == 0.0
