"""Who a worker is, so that the next one on this machine can tell whether it is dead without waiting for its lease."""

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class WorkerIdentity:
    """`host/scope/pid/start/nonce`. scope: boot id and pid namespace, within which a pid means one process.
    start: the process's start in clock ticks, since pids come round again; 0 where the system does not tell."""

    host: str
    scope: str
    pid: int
    start: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.host}/{self.scope}/{self.pid}/{self.start}/{self.nonce}"


def this_worker() -> WorkerIdentity:
    pid = os.getpid()
    return WorkerIdentity(socket.gethostname().replace("/", "-"), _scope(), pid, _start(pid) or 0, secrets.token_hex(4))


def parse_identity(text: str) -> WorkerIdentity | None:
    parts = text.split("/")
    if len(parts) != 5 or not parts[2].isdigit() or not parts[3].isdigit():
        return None
    return WorkerIdentity(parts[0], parts[1], int(parts[2]), int(parts[3]), parts[4])


def is_dead_here(text: str, me: WorkerIdentity) -> bool:
    """True only when the worker surely ran here and surely runs no more. False when in doubt: the lease decides."""
    other = parse_identity(text)
    if other is None or (other.host, other.scope) != (me.host, me.scope) or not me.scope:
        return False
    start = _start(other.pid)
    return start is None or start != other.start


def _scope() -> str:
    """Empty where /proc is missing: then nothing is ever taken for dead."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{(PROC / 'self/ns/pid').readlink()}".replace("/", "-")
    except OSError:
        return ""


def _start(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat; None when there is no such process. A zombie counts as gone."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
