"""Who a worker is, so that the next one on this machine can tell whether it is dead without waiting for its lease."""

import os
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC = Path("/proc")


@dataclass(frozen=True)
class WorkerIdentity:
    """`host/scope/pid/start/nonce`. scope: within which a pid means one process. start: when the process began, since
    pids come round again; 0 where the system does not tell."""

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
    if other is None or (other.host, other.scope) != (me.host, me.scope):
        return False
    start = _start(other.pid)
    return start is None or start != other.start


def _scope() -> str:
    """On Linux boot id and pid namespace. Elsewhere the system: there are no namespaces, and times of start tell one
    boot from another."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{(PROC / 'self/ns/pid').readlink()}".replace("/", "-")
    except OSError:
        return sys.platform


def _start(pid: int) -> int | None:
    """When the process began, or None when there is none or only its zombie.

    On Linux in ticks since the boot: psutil would add the time of the boot, which moves with the clock, and a worker
    would seem dead after the clock was set. Elsewhere the kernel keeps the time of start itself, here in milliseconds.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        if (stat := PROC / str(pid) / "stat").exists():
            return int(stat.read_text().rpartition(")")[2].split()[19])
        return int(process.create_time() * 1000)
    except psutil.AccessDenied:  # somebody's process: whose, is in doubt
        return 0
    except (psutil.NoSuchProcess, OSError):
        return None
