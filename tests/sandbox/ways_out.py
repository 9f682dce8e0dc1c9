"""A grader that tries to get out: each way by its name, 1.0 where it led anywhere, 0.0 where it was refused.

As a program it tries all of them as the user that it runs as, and prints what came of each.
"""

import asyncio
import json
import sys

from tunery.sandbox.pool import GraderFailed, Limits, Sandbox

SOURCE = r'''
import ctypes, glob, mmap, os, resource, signal, socket, subprocess, sys, threading

libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *arguments) >= 0

def reads(path):
    with open(path, "rb") as file:
        return bool(file.read(1))

def writes(path):
    with open(path, "wb") as file:
        return bool(file.write(b"x"))

def connects(family, address):
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
    return True

def forks():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return True

def lists(path):
    return bool(os.listdir(path))

def other_processes():
    """Of all numbers that a process may have, one that can be signalled and is neither this one nor the first."""
    for pid in range(3, 40_000):
        if pid != os.getpid():
            try:
                os.kill(pid, 0)
                return True
            except ProcessLookupError:
                pass
            except PermissionError:
                return True
    return False

def threads():
    """True when more start than may."""
    stop, started = threading.Event(), []
    threading.stack_size(64 * 1024)
    try:
        for _ in range(200):
            started.append(threading.Thread(target=stop.wait, daemon=True))
            started[-1].start()
    finally:
        stop.set()
    return True

def fills(path):
    """True when the folder takes more than its gigabyte; the test's limit is a tenth of it."""
    with open(path, "wb") as file:
        for _ in range(200):
            file.write(bytes(1 << 20))
    return True

def many_large_files():
    for number in range(20):
        with open(f"/tmp/large{number}", "wb") as file:
            file.write(bytes(10 << 20))
    return True

def all_memory():
    return bool(bytearray(3 << 30))

def shared_memory():
    return bool(mmap.mmap(-1, 3 << 30))

def more_rights(name):
    resource.setrlimit(getattr(resource, name), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return True

def environment():
    return bool(set(os.environ) - {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PWD", "LC_CTYPE"})

def becomes_root():
    os.setuid(0)
    return "as root" if os.path.exists("/etc/shadow") else False

def imports(name):
    return bool(__import__(name))

def open_files():
    """True for a file, a folder or a socket among what the process was begun with."""
    return any(not os.path.stat.S_ISFIFO(mode) and not os.path.stat.S_ISCHR(mode)
               for fd in range(64) for mode in modes(fd))

def modes(fd):
    try:
        return [os.fstat(fd).st_mode]
    except OSError:
        return []

def climbs():
    os.chdir("/tmp")
    return any(os.path.exists("../" * depth + name) for depth in range(12) for name in ("etc/passwd", "proc", "sys"))

def links_out():
    os.symlink("/etc/passwd", "/tmp/link")
    return reads("/tmp/link")

WAYS = {
    "read /etc/passwd": lambda item: reads("/etc/passwd"),
    "read /etc/shadow": lambda item: reads("/etc/shadow"),
    "read a file of the server's home": lambda item: reads(item["secret"]),
    "list the server's home": lambda item: lists(os.path.dirname(item["secret"])),
    "read a file of the server's own folder": lambda item: reads(item["source"]),
    "follow a link out": lambda item: links_out(),
    "climb over the root": lambda item: climbs(),
    "read another process's memory": lambda item: reads("/proc/1/mem"),
    "read another process's environment": lambda item: reads("/proc/1/environ"),
    "look through /proc": lambda item: lists("/proc"),
    "look through /sys": lambda item: lists("/sys"),
    "list devices": lambda item: bool(set(os.listdir("/dev")) - {"null", "zero", "random", "urandom"}),
    "make a device": lambda item: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)) is None,
    "write into /dev": lambda item: writes("/dev/shm"),
    "write into the root": lambda item: writes("/x"),
    "write into the libraries": lambda item: writes("/usr/lib/x"),
    "write into the packages": lambda item: writes("/packages/numpy/__init__.py"),
    "write into the standard library": lambda item: writes(os.__file__),
    "write over what runs inside": lambda item: writes(sys.argv[0]),
    "read the environment": lambda item: environment(),
    "import the server": lambda item: imports("tunery"),
    "import its database": lambda item: imports("sqlalchemy"),
    "use files it was begun with": lambda item: open_files(),
    "reach the loopback": lambda item: connects(socket.AF_INET, ("127.0.0.1", item["port"])),
    "reach the internet": lambda item: connects(socket.AF_INET, ("1.1.1.1", 53)),
    "reach it by IPv6": lambda item: connects(socket.AF_INET6, ("::1", item["port"])),
    "resolve a name": lambda item: bool(socket.getaddrinfo("example.com", 80)),
    "open a Unix socket": lambda item: connects(socket.AF_UNIX, item["unix"]),
    "open an abstract socket": lambda item: connects(socket.AF_UNIX, "\0" + item["abstract"]),
    "open a netlink socket": lambda item: bool(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "open a raw packet socket": lambda item: bool(socket.socket(17, socket.SOCK_RAW)),
    "open a pair of sockets": lambda item: bool(socket.socketpair()),
    "open a vsock": lambda item: bool(socket.socket(40, socket.SOCK_STREAM)),
    "open a crypto socket": lambda item: bool(socket.socket(38, socket.SOCK_SEQPACKET)),
    "fork": lambda item: forks(),
    "clone by number": lambda item: call(56, 17, 0, 0, 0, 0),
    "clone3 by number": lambda item: call(435, ctypes.create_string_buffer(88), 88),
    "start a shell": lambda item: bool(subprocess.run(["/bin/sh", "-c", "true"])),
    "become a shell": lambda item: os.execv("/bin/sh", ["sh"]),
    "find another process": lambda item: other_processes(),
    "signal the first process": lambda item: os.kill(1, signal.SIGKILL) is None and os.getpid() == 1,
    "trace": lambda item: call(101, 16, 1, 0, 0),
    "read another process's memory by number": lambda item: call(310, 1, 0, 0, 0, 0, 0),
    "make a user namespace": lambda item: call(272, 0x10000000),
    "make a mount namespace": lambda item: call(272, 0x00020000),
    "join a namespace": lambda item: call(308, 0, 0),
    "mount": lambda item: call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "mount by the new calls": lambda item: call(430, b"tmpfs", 0),
    "unmount": lambda item: call(166, b"/tmp", 2),
    "change the root": lambda item: call(161, b"/tmp"),
    "pivot the root": lambda item: call(155, b"/tmp", b"/tmp"),
    "load a BPF program": lambda item: call(321, 5, ctypes.create_string_buffer(128), 128),
    "watch performance": lambda item: call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "open an io_uring": lambda item: call(425, 8, ctypes.create_string_buffer(128)),
    "use the key ring": lambda item: call(250, 0, -3, 0),
    "handle page faults": lambda item: call(323, 0),
    "make a file in memory": lambda item: call(319, b"x", 0),
    "use System V memory": lambda item: call(29, 0, 1 << 20, 0o1600),
    "use a message queue": lambda item: call(68, 0, 0o1600),
    "open by handle": lambda item: call(304, -100, ctypes.create_string_buffer(128), 0),
    "load a kernel module": lambda item: call(175, 0, 0, b""),
    "restart the machine": lambda item: call(169, 0, 0, 0, 0),
    "set the clock": lambda item: call(227, 0, ctypes.create_string_buffer(16)),
    "set the host's name": lambda item: socket.sethostname("x") is None,
    "read the kernel's log": lambda item: call(103, 3, ctypes.create_string_buffer(64), 64),
    "lock files without end": lambda item: call(72, 1, 6, ctypes.create_string_buffer(64)),
    "watch files": lambda item: call(294, 0),
    "type into a terminal": lambda item: call(16, 0, 0x5412, b"x"),
    "speak another machine's numbers": lambda item: call(0x40000000 + 39),
    "become root": lambda item: becomes_root(),
    "raise a limit": lambda item: more_rights("RLIMIT_AS"),
    "raise the number of threads": lambda item: more_rights("RLIMIT_NPROC"),
    "start many threads": lambda item: threads(),
    "take all memory": lambda item: all_memory(),
    "take all shared memory": lambda item: shared_memory(),
    "fill the disk": lambda item: fills("/tmp/large"),
    "fill the disk by many files": lambda item: many_large_files(),
}

def grade(sample, item):
    try:
        return bool(WAYS[item["way"]](item))
    except (Exception, SystemExit):
        return False
'''

NAMES = [line.split('"')[1] for line in SOURCE.split("\n") if line.startswith('    "') and "lambda item" in line]
DEADLY = {"speak another machine's numbers"}  # the kernel ends a process that does
OPEN_TO_ANYONE = (  # where there is no sandbox: that a way would be seen
    *(
        "read /etc/passwd",
        "read a file of the server's home",
        "list the server's home",
        "look through /proc",
        "list devices",
    ),
    *("climb over the root", "read the environment", "import the server", "reach the loopback"),
    *("open a pair of sockets", "open an abstract socket", "fork", "start a shell", "find another process"),
    *("start many threads", "take all memory", "make a file in memory", "watch files"),
)
DISK_BYTES = 100 * 1024**2


async def try_all(given: dict[str, object]) -> dict[str, object]:
    """What came of each way: 0.0, 1.0, or why there is no answer."""
    sandbox = Sandbox(Limits(disk_bytes=DISK_BYTES, seconds=60.0))
    found: dict[str, object] = {}
    try:
        for way in NAMES:
            try:
                found[way] = await sandbox.grade(SOURCE, {}, {**given, "way": way}, project_id="p")
            except GraderFailed as exc:
                found[way] = str(exc)
    finally:
        await sandbox.close()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(try_all(json.loads(sys.argv[1])))))
