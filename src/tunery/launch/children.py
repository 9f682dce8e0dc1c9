"""Child processes that are started again when they fall: each of the server's parts is one."""

import os
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
STEADY_S = 60.0  # who ran for so long has earned a quick restart again
MAX_LOG_BYTES = 10_000_000


@dataclass(frozen=True)
class ChildSpec:
    name: str
    module: str  # run as `python -m` would
    arguments: tuple[str, ...]
    environment: dict[str, str]  # on top of this process's own
    log: Path


class Child:
    """One process and its successors. Not thread-safe: one thread starts, watches and stops it."""

    def __init__(self, spec: ChildSpec, *, echo: bool = False) -> None:
        self.spec = spec
        self.falls = 0  # in a row, without a steady run between them
        self._echo = echo
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_again_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        command = [sys.executable, "-m", "tunery.launch.tether", str(os.getpid()), self.spec.module]
        self.spec.log.parent.mkdir(parents=True, exist_ok=True)
        _keep_short(self.spec.log)
        with self.spec.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self.spec.arguments],
                env={**os.environ, **self.spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=None if self._echo else log,
                stderr=None if self._echo else log,
                start_new_session=True,  # Ctrl-C is for the server, which then stops its parts in order
            )
        self._started_at = time.monotonic()

    def look(self) -> str | None:
        """Start it again when it has fallen and its delay is over. Returns what happened, for the log, or None."""
        if self._process is None:
            if time.monotonic() >= self._start_again_at:
                self.start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        lasted = time.monotonic() - self._started_at
        self.falls = 1 if lasted >= STEADY_S else self.falls + 1
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (self.falls - 1))
        self._process, self._start_again_at = None, time.monotonic() + delay
        return f"{self.spec.name} ended with code {code} after {lasted:.0f} s; starting it again in {delay:g} s"

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Until it has ended; killed when that takes longer than `timeout_s`."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self, lines: int = 15) -> str:
        if self._echo or not self.spec.log.exists():
            return ""
        with self.spec.log.open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, lines)).rstrip()


def _keep_short(log: Path) -> None:
    """The log of an earlier start stays readable as `NAME.log.1`, once it has grown large."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
