"""What a grader's process is shut in with: bubblewrap's namespaces, a filter of system calls, and what it may read.

Three walls, each enough against most ways out. Namespaces: there is no network, no other process, and of files only
the interpreter, its libraries and the graders' packages, read-only, beside an empty /tmp. The filter: what a grader
has no use for does not exist, above all sockets, new processes, mounts, tracing and the kernel's own languages. And a
user who owns nothing: where the server is root, the process gives that up for a number that no user has.

bubblewrap takes the filter as a program of the kernel's; libseccomp, which knows each machine's numbers, writes it.
"""

import ctypes
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

INSIDE = Path(__file__).with_name("inside.py")
PROGRAM = "/sandbox/inside.py"  # the same, seen from inside: it names no folder of this machine
PACKAGES = "/packages"
KNOWN_PACKAGES = (  # OpenAI's list for graders
    *("ast-grep-py", "deepdiff", "jsonschema", "nltk", "numpy", "pandas", "pydantic", "pyyaml", "rapidfuzz", "rdkit"),
    *("rouge-score", "scikit-bio", "scikit-learn", "scipy", "sqlparse", "sympy"),
)
FREE_USERS = range(61184, 65520)  # systemd's for services that bring no user: nobody else has them
PROBE_S = 20.0

# Runs before bubblewrap does, in its process: two processors, behind everybody else, and the first to go when memory
# ends. A library's threads would cost address space that a grader has a better use for.
PRELUDE = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-2:])
os.nice(5)
try:
    open("/proc/self/oom_score_adj", "w").write("1000")
except OSError:
    pass
os.execv(sys.argv[1], sys.argv[1:])
"""


class NoSandbox(Exception):
    """There is none on this machine; the text says why."""


@dataclass(frozen=True)
class Limits:
    """OpenAI's for its graders, where they are known."""

    seconds: float = 120.0  # a row
    memory_bytes: int = 2 * 1024**3
    disk_bytes: int = 1024**3
    num_files: int = 20_000
    num_threads: int = 64
    reply_bytes: int = 64 * 1024


def command(filter_fd: int, limits: Limits) -> list[str]:
    """Starts one process of a sandbox, which reads requests at its stdin and answers at its stdout.

    Raises NoSandbox.
    """
    return [sys.executable, "-I", "-S", "-c", PRELUDE, *_bwrap(filter_fd, limits), *_python(), *_inside(limits)]


@cache
def probe() -> None:
    """Shut a process in and let it say so. Raises NoSandbox with what was said in its place."""
    with open_filter() as filter_fd:
        line = command(filter_fd.fileno(), Limits())
        try:
            done = subprocess.run(
                line,
                input=b'"def grade(sample, item): return 1.0"\n{"n": 1, "sample": null, "item": null}\n',
                capture_output=True,
                pass_fds=[filter_fd.fileno()],
                env={},
                timeout=PROBE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise NoSandbox(f"a first process in it did not answer within {PROBE_S:g} seconds") from exc
    if b'"score": 1.0' not in done.stdout:
        raise NoSandbox(done.stderr.decode(errors="replace").strip()[-300:] or f"it ended with {done.returncode}")


def _bwrap(filter_fd: int, limits: Limits) -> Iterator[str]:
    program = shutil.which("bwrap")
    if sys.platform != "linux" or program is None:
        raise NoSandbox("there is no bubblewrap (bwrap)")
    yield program
    yield from ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
    if os.geteuid() == 0:  # the process gives up both rights with which it gives up being root
        yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield from ("--unshare-user", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534")
    yield from ("--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        yield from ("--setenv", name, "1")
    # First, for an interpreter that lies below /tmp itself is bound into it.
    yield from ("--perms", "0777", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp")  # noqa: S108
    yield from _readable()
    yield from ("--remount-ro", "/", "--chdir", "/tmp", "--seccomp", str(filter_fd))  # noqa: S108


def _python() -> list[str]:
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-X", "utf8", PROGRAM]


def _inside(limits: Limits) -> list[str]:
    user = random.choice(FREE_USERS) if os.geteuid() == 0 else None
    return [json.dumps({"packages": PACKAGES, "user": user, **asdict(limits)})]


# ---- what can be read


def _readable() -> Iterator[str]:
    """Libraries, the interpreter and packages. No /proc: it tells of the machine, and Python does without."""
    libraries = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
    bound = [path for path in (*libraries, "/etc/ld.so.cache") if os.path.exists(path) and not os.path.islink(path)]
    bound += [os.path.realpath(sys.executable), str(Path(sys.base_prefix, "lib"))]
    found = {path: path for path in bound} | {PROGRAM: str(INSIDE)}
    found |= {f"{PACKAGES}/{name}": str(path) for name, path in packages().items()}
    devices = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
    parents = {str(parent) for path in (*found, *devices) for parent in Path(path).parents} - {"/", "/tmp"}  # noqa: S108
    for path in sorted(parents):  # bubblewrap's own would be closed to the user that the process becomes
        yield from ("--perms", "0755", "--dir", path)
    for path in sorted(found):
        yield from ("--ro-bind", found[path], path)
    for path in libraries:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
    for path in devices:
        yield from ("--dev-bind", path, path)


@cache
def packages() -> dict[str, Path]:
    """Files and folders of those of OpenAI's packages that are installed here and of what they need, by name."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = list(KNOWN_PACKAGES)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        waiting += [_name(line) for line in package.requires or [] if "extra ==" not in line]
        tops = {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}
        found |= {top: path for top in sorted(tops) if (path := Path(str(package.locate_file(top)))).exists()}
    return found


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, "a requirement begins with a name"
    return found.group()


# ---- what can be called

FILES = """
access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate
fchdir fchmod fchmodat fdatasync fstat fstatfs fsync ftruncate getcwd getdents getdents64 lseek lstat mkdir mkdirat
newfstatat open openat pipe pipe2 poll ppoll pread64 preadv pselect6 pwrite64 pwritev read readlink readlinkat readv
rename renameat renameat2 rmdir select sendfile stat statfs statx truncate umask unlink unlinkat utimensat write
writev epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2
"""
MEMORY = "brk madvise mincore mmap mprotect mremap munmap membarrier"
PROCESS = """
arch_prctl clock_getres clock_gettime clock_nanosleep execve exit exit_group futex getcpu getegid geteuid getgid
getgroups getpgrp getpid getppid getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid
kill nanosleep prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend
rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address
setgroups setitimer setresgid setresuid setrlimit sigaltstack sysinfo tgkill time times uname wait4
"""
FCNTL = (0, 1030, 1, 2, 3, 4)  # F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL: no locks, no leases
IOCTL = (0x5401, 0x5421, 0x5451, 0x5450)  # TCGETS (is it a terminal?), FIONBIO, FIOCLEX, FIONCLEX
CLONE_THREAD = 0x10000
ENOSYS, EPERM = 38, 1
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EQUAL, MASKED_EQUAL = 4, 7


class Comparison(ctypes.Structure):
    """libseccomp's `struct scmp_arg_cmp`: a system call's argument, how it is compared, and with what."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("other", ctypes.c_uint64),
    )


@cache
def filter_program() -> bytes:
    """The kernel's program that lets through what is named above and refuses the rest. Raises NoSandbox."""
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError as exc:
        raise NoSandbox("there is no libseccomp (libseccomp.so.2)") from exc
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison))
    ]
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(ERRNO | EPERM)))

    def add(action: int, name: str, *only: Comparison) -> None:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        compared = (Comparison * len(only))(*only)
        if number != -1 and lib.seccomp_rule_add_array(context, action, number, len(only), compared):
            raise NoSandbox(f"libseccomp refuses a rule on {name}")

    for name in (FILES + " " + MEMORY + " " + PROCESS).split():
        add(ALLOW, name)
    for name, values in (("fcntl", FCNTL), ("ioctl", IOCTL)):
        for value in values:
            add(ALLOW, name, Comparison(1, EQUAL, value))
    add(ALLOW, "clone", Comparison(0, MASKED_EQUAL, CLONE_THREAD, CLONE_THREAD))
    add(ERRNO | ENOSYS, "clone3")  # its flags lie in memory, where no filter sees them: libc then takes clone
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        if lib.seccomp_export_bpf(context, file.fileno()):
            raise NoSandbox("libseccomp could not write the filter")
        lib.seccomp_release(context)
        file.seek(0)
        return file.read()


def open_filter() -> BinaryIO:
    """The program as a file, at its beginning: each bubblewrap reads one to its end."""
    program = filter_program()
    file = os.fdopen(os.memfd_create("filter"), "w+b")
    file.write(program)
    file.seek(0)
    return file
